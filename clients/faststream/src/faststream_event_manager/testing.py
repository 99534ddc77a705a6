"""A broker in memory, for tests of handlers. `event_manager.testing.TestHub` is the real daemon; use it with `with_real=True`."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast, overload
from uuid import uuid4

import anyio
from event_manager import Event, Receipt
from faststream._internal.endpoint.utils import ParserComposition
from faststream._internal.parser import DefaultCodec
from faststream._internal.testing import broker as _testing
from faststream._internal.testing.broker import EnterType, TestBroker, change_producer
from faststream.exceptions import SubscriberNotFound

from .broker import EventManagerBroker
from .parser import EventParser, headers_of, text_headers
from .producer import EventManagerProducer
from .response import EventManagerPublishCommand
from .subscriber import EventManagerSubscriber

if TYPE_CHECKING:
    from event_manager import Service

    from .publisher import EventManagerPublisher


class TestEventManagerBroker(TestBroker[EventManagerBroker, EnterType]):
    """Gives what is published to the subscribers of these brokers, as the daemon would: to every plain one, and to one of each
    service. Nothing comes again: what a handler raises, `publish` raises."""

    @overload
    def __init__(
        self: TestEventManagerBroker[EventManagerBroker],
        broker: EventManagerBroker,
        /,
        *,
        with_real: bool = False,
        connect_only: bool | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: TestEventManagerBroker[tuple[EventManagerBroker, ...]],
        *brokers: EventManagerBroker,
        with_real: bool = False,
        connect_only: bool | None = None,
    ) -> None: ...
    def __init__(self, *brokers: EventManagerBroker, with_real: bool = False, connect_only: bool | None = None) -> None:
        super().__init__(*brokers, with_real=with_real, connect_only=connect_only)

    def create_publisher_fake_subscriber(
        self, broker: EventManagerBroker, publisher: EventManagerPublisher
    ) -> tuple[EventManagerSubscriber, bool]:
        for each in _subscribers(self.brokers):
            if each.matches(publisher.subject):
                return each, True
        return broker.subscriber(publisher.subject, dialect="exact", persistent=False), False

    @contextmanager
    def _patch_producer(self, broker: EventManagerBroker) -> Generator[None, None, None]:
        config = broker.config.broker_config
        hub = config.connected
        try:
            with change_producer(config, FakeProducer(broker, self.brokers)):
                yield
        finally:
            config.connected = hub

    async def _fake_connect(self, broker: EventManagerBroker, *args: Any, **kwargs: Any) -> Any:
        hub = _FakeHub()
        broker.config.broker_config.connected = cast("Any", hub)
        return hub


# FastStream finds it by this from 0.7.5 on.
if hasattr(_testing, "_TEST_BROKERS"):
    _testing._TEST_BROKERS[EventManagerBroker] = TestEventManagerBroker


class FakeProducer(EventManagerProducer):
    """Calls the handlers."""

    def __init__(self, broker: EventManagerBroker, brokers: Sequence[EventManagerBroker]) -> None:
        default = EventParser()
        self._parser = ParserComposition(broker._parser, default.parse_message)
        self._decoder = ParserComposition(broker._decoder, default.decode_message)
        self.level = broker.config.broker_config.producer.level
        self.broker = broker
        self.brokers = brokers
        self.codec = broker.config.broker_codec or DefaultCodec()
        self.answers: dict[str, Event[bytes]] = {}

    async def publish(self, cmd: EventManagerPublishCommand) -> Receipt | None:
        event = await self._event(cmd)
        if cmd.destination in self.answers:
            self.answers[cmd.destination] = event
        reached = await self._deliver(event)
        level = cmd.level_of(self.level)
        return None if level == "none" else Receipt(cmd.id or "test", len(reached - {""}), level, False)

    async def request(self, cmd: EventManagerPublishCommand) -> Event[bytes]:
        inbox = cmd.reply_to = f"_INBOX.{uuid4().hex}"
        none: Event[bytes] = Event([b""])
        self.answers[inbox] = none
        try:
            with anyio.fail_after(cmd.timeout):
                if not await self._deliver(await self._event(cmd)):
                    raise SubscriberNotFound(f"there is no subscriber for {cmd.destination!r}, so nobody answers")
            if self.answers[inbox] is none:
                raise TimeoutError(f"nobody answered to {cmd.destination!r}")
            return self.answers[inbox]
        finally:
            del self.answers[inbox]

    async def _deliver(self, event: Event[bytes]) -> set[str]:
        """Gives it to all for whom it is; the names of their services."""
        reached: set[str] = set()
        for each in _subscribers(self.brokers):
            group = each.group or ""
            if each.running and not (group and group in reached) and each.matches(event.subject):
                reached.add(group)
                await each.process_message(event)
        return reached

    async def _event(self, cmd: EventManagerPublishCommand) -> Event[bytes]:
        body, content_type = await self.codec.encode(cmd.body, self.broker.config.fd_config._serializer)
        return build_event(cmd.destination, body, headers_of(cmd, content_type))

    async def disconnect(self) -> None:
        """It has no connection."""


def build_event(subject: str, body: bytes, headers: dict[str, Any] | None = None) -> Event[bytes]:
    """An event as a plain subscriber gets it."""
    from event_manager._typed import encode_headers

    frames = [subject.encode(), body]
    if headers:
        frames.append(encode_headers(text_headers(headers)))
    return Event(frames)


def _subscribers(brokers: Sequence[EventManagerBroker]) -> Iterator[EventManagerSubscriber]:
    for broker in brokers:
        yield from cast("list[EventManagerSubscriber]", broker.subscribers)


class _FakeHub:
    """Where nothing comes from: the producer calls the handlers."""

    async def subscribe(self, *subjects: str, timeout: float | None = None) -> _FakeSubscription:
        return _FakeSubscription()

    async def start(self, service: Service, timeout: float | None = None) -> None:
        """Nothing to do."""

    async def stop(self, service: Service, drain: float = 5.0, unsubscribe: bool = False) -> None:
        """Nothing to do."""

    async def close(self, drain: float = 5.0) -> None:
        """Nothing to do."""

    async def status(self, timeout: float | None = None) -> dict[str, Any]:
        return {}


class _FakeSubscription:
    """One on which nothing comes."""

    dropped = 0

    async def next(self) -> Event[bytes]:
        await asyncio.get_running_loop().create_future()
        raise AssertionError("unreachable")

    async def close(self) -> None:
        """Nothing to do."""


__all__ = ["FakeProducer", "TestEventManagerBroker", "build_event"]
