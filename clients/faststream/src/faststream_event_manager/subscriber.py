"""Subscribers: to every event with a subject (plain), or as worker of a service."""

from __future__ import annotations

import asyncio
import itertools
import logging
import warnings
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
from event_manager import Closed, Event, InvalidArgument, NotFinished, Service
from faststream._internal.constants import EMPTY
from faststream._internal.endpoint.subscriber import SubscriberSpecification, SubscriberUsecase
from faststream._internal.endpoint.subscriber.call_item import CallsCollection
from faststream._internal.endpoint.utils import process_msg
from faststream.exceptions import SetupError
from faststream.middlewares import AckPolicy

from . import subjects
from .configs import (
    Delivery,
    EventManagerBrokerConfig,
    EventManagerSubscriberConfig,
    EventManagerSubscriberSpecificationConfig,
    ServiceOptions,
)
from .message import EventManagerMessage
from .parser import EventParser
from .publisher import EventManagerFakePublisher
from .specification import EventManagerSubscriberSpecification
from .subjects import DIALECTS, Dialect, Pattern

if TYPE_CHECKING:
    from event_manager.aio import AsyncHub, AsyncSubscription
    from faststream._internal.endpoint.publisher import PublisherProto
    from faststream.message import StreamMessage
    from faststream.response import Response

#: Handlers that never wait run so many times before other tasks have their turn.
_TURN = 16


class EventManagerSubscriber(SubscriberUsecase["Event[bytes]"]):
    """What both kinds have in common."""

    _outer_config: EventManagerBrokerConfig

    def __init__(
        self,
        config: EventManagerSubscriberConfig,
        specification: SubscriberSpecification[Any, Any],
        calls: CallsCollection[Any],
    ) -> None:
        parser = EventParser(lambda: self.patterns)
        config.parser = parser.parse_message
        config.decoder = parser.decode_message
        super().__init__(config, specification, calls)
        self._templates = config.templates
        self._dialect: Dialect = config.dialect
        self._max_workers = config.max_workers
        self._patterns: tuple[str, list[Pattern]] = ("", [])
        #: Where it is subscribed.
        self._hub: AsyncHub | None = None
        _ = self._compile("")  # What is wrong is said where it is written.

    @property
    def patterns(self) -> Sequence[Pattern]:
        """Its patterns, with the prefixes of its routers."""
        prefix = self._outer_config.prefix
        if self._patterns[0] != prefix or not self._patterns[1]:
            self._patterns = (prefix, self._compile(prefix))
        return self._patterns[1]

    def _compile(self, prefix: str) -> list[Pattern]:
        return [Pattern(prefix + each, self._dialect) for each in self._templates]

    @property
    def subject(self) -> str:
        """Its subjects, as they are written in logs."""
        return ",".join(each.template for each in self.patterns)

    def matches(self, subject: str) -> bool:
        """Whether an event with this subject is for it."""
        return subjects.match(self.patterns, subject) is not None

    @property
    def group(self) -> str | None:
        """The service that it is a worker of."""
        return None

    def get_log_context(self, message: StreamMessage[Event[bytes]] | None) -> dict[str, str]:
        subject = message.raw_message.subject if message is not None else self.subject
        return {"subject": subject, "service": self.group or "", "message_id": getattr(message, "message_id", "")}

    def _make_response_publisher(self, message: StreamMessage[Event[bytes]]) -> Sequence[PublisherProto]:
        return (EventManagerFakePublisher(self._outer_config.producer, message.reply_to),)

    async def start(self) -> None:
        """Subscribes. Without a handler, events wait for `get_one`."""
        await super().start()
        await self._subscribe()
        self._post_start()

    async def _subscribe(self) -> None:
        raise NotImplementedError

    async def _next(self) -> Event[bytes]:
        """The next event, for those that take them by `get_one`."""
        raise NotImplementedError

    async def get_one(self, *, timeout: float = 5.0) -> EventManagerMessage | None:
        """The next event, or None if there is none for so many seconds. Only without handlers."""
        self._check_taking()
        event: Event[bytes] | None = None
        with anyio.move_on_after(timeout):
            event = await self._next()
        return None if event is None else await self._parse(event)

    async def __aiter__(self) -> AsyncIterator[EventManagerMessage]:  # type: ignore[override]
        self._check_taking()
        with suppress(Closed):
            while True:
                yield await self._parse(await self._next())

    def _check_taking(self) -> None:
        assert not self.calls, "events go to the subscriber's handlers: get_one and `async for` are for subscribers without any"
        assert self.running, "start the subscriber first"

    async def _parse(self, event: Event[bytes]) -> EventManagerMessage:
        parser, decoder = self._get_parser_and_decoder()
        context = self._outer_config.fd_config.context
        message: EventManagerMessage = await process_msg(  # type: ignore[assignment]
            msg=event,
            middlewares=(each(event, context=context) for each in self._broker_middlewares),
            parser=parser,
            decoder=decoder,
        )
        return message


class EventManagerPlainSubscriber(EventManagerSubscriber):
    """Gets every event while it is connected. Nothing is acknowledged, and nothing is kept for it while it is away."""

    def __init__(
        self,
        config: EventManagerSubscriberConfig,
        specification: SubscriberSpecification[Any, Any],
        calls: CallsCollection[Any],
    ) -> None:
        super().__init__(config, specification, calls)
        self._subscription: AsyncSubscription | None = None
        self._reader: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._dropped = 0

    async def _subscribe(self) -> None:
        hub = self._outer_config.hub
        if self._subscription is None or self._hub is not hub:
            self._hub = hub
            prefixes = dict.fromkeys(each.prefix for each in self.patterns)
            self._dropped = 0
            self._subscription = await hub.subscribe(*prefixes, timeout=self._outer_config.start_timeout)
        if self.calls and (self._reader is None or self._reader.done()):
            self._reader = asyncio.create_task(self._read(self._subscription))

    async def _read(self, subscription: AsyncSubscription) -> None:
        free = asyncio.Semaphore(self._max_workers)
        for number in itertools.count():
            if self._subscription is not subscription:
                return
            if number % _TURN == 0:
                await asyncio.sleep(0)
            try:
                event = await self._next_of(subscription)
            except Closed:
                return
            if self._max_workers == 1:
                await self.consume(event)
                continue
            await free.acquire()
            task = asyncio.create_task(self.consume(event))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(lambda _: free.release())

    async def _next(self) -> Event[bytes]:
        if self._subscription is None:
            raise Closed("the subscriber is stopped; start it again to go on")
        return await self._next_of(self._subscription)

    async def _next_of(self, subscription: AsyncSubscription) -> Event[bytes]:
        while True:
            event = await subscription.next()
            if subscription.dropped > self._dropped:
                lost, self._dropped = subscription.dropped - self._dropped, subscription.dropped
                self._log(logging.WARNING, f"{lost} events were dropped, because handlers are slower than publishers; use a service")
            if self.matches(event.subject):
                return event

    async def stop(self) -> None:
        """Unsubscribes, and waits for handlers that run."""
        self.running = False
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await subscription.close()
        await super().stop()
        reader, self._reader = self._reader, None
        for task in (reader, *self._tasks):
            # A handler may stop its own subscriber.
            if task is not None and task is not asyncio.current_task():
                task.cancel()


class EventManagerServiceSubscriber(EventManagerSubscriber):
    """A worker of a service: each event goes to one of its workers, which acknowledges it."""

    def __init__(
        self,
        config: EventManagerSubscriberConfig,
        specification: SubscriberSpecification[Any, Any],
        calls: CallsCollection[Any],
        options: ServiceOptions,
    ) -> None:
        super().__init__(config, specification, calls)
        self._options = options
        self._service: Service | None = None
        self._waiting: asyncio.Queue[Event[bytes] | None] = asyncio.Queue()
        self._handling: set[asyncio.Task[Any] | None] = set()
        self._stopping: asyncio.Task[None] | None = None
        self._make_service("")  # What is wrong is said where it is written.

    @property
    def group(self) -> str | None:
        return self._options.name

    def _make_service(self, prefix: str) -> Service:
        options = self._options
        service = Service(
            options.name,
            delivery=options.delivery,
            credit=options.credit,
            concurrency=self._max_workers,
            order_by=options.order_by,
            max_handling=options.max_handling,
            ack="manual",
        )
        # The daemon knows no parameters; to it, they are stars.
        service.on(*(each.glob for each in self._compile(prefix)), dialect=self._dialect)(self._handle)
        return service

    async def _subscribe(self) -> None:
        hub = self._outer_config.hub
        if self._service is not None and self._hub is hub:
            return
        taken = self._outer_config.services.setdefault(self._options.name, self)
        if taken is not self:
            raise SetupError(
                f"two subscribers of a broker can't be workers of the same service {self._options.name!r}: each would get events "
                f"of the other; give one of them all subjects, or another name"
            )
        self._waiting = asyncio.Queue()
        self._service = service = self._make_service(self._outer_config.prefix)
        # Events may come before it is told that it works.
        self.running = True
        try:
            self._hub = hub
            await hub.start(service, timeout=self._outer_config.start_timeout)
        except BaseException:
            self.running = False
            self._service = None
            del self._outer_config.services[self._options.name]
            raise

    async def _handle(self, event: Event[bytes]) -> None:
        if not self.running:
            event.nak(0, "the subscriber stops")
        elif not self.calls:
            self._waiting.put_nowait(event)
        else:
            task = asyncio.current_task()
            self._handling.add(task)
            try:
                await self.consume(event)
            finally:
                self._handling.discard(task)

    async def process_message(self, msg: Event[bytes]) -> Response:
        try:
            return await super().process_message(msg)
        except Exception as error:
            # FastStream acknowledges only what could be parsed and has a handler; whoever is first, counts.
            if msg.id is not None:
                if self.ack_policy is AckPolicy.MANUAL:
                    msg.nak(None, f"{type(error).__name__}: {error}")
                elif self.ack_policy is AckPolicy.ACK:
                    msg.ack()
                else:
                    msg.term(f"{type(error).__name__}: {error}")
            raise

    async def _next(self) -> Event[bytes]:
        event = await self._waiting.get()
        if event is None:
            raise Closed("the subscriber is stopped; start it again to go on")
        return event

    async def stop(self) -> None:
        """Takes no more events, and finishes those whose handlers run; others go to other workers. The subscription stays until its
        lease is over, so that a live service's queue survives a restart of its workers."""
        self.running = False
        service, self._service = self._service, None
        if service is not None:
            self._outer_config.services.pop(self._options.name, None)
            self._stopping = asyncio.create_task(self._stop(service))
        if self._stopping is not None and asyncio.current_task() not in self._handling:
            # Otherwise it would wait for the handler that stops it.
            stopping, self._stopping = self._stopping, None
            await stopping

    async def _stop(self, service: Service) -> None:
        while not self._waiting.empty():
            event = self._waiting.get_nowait()
            if event is not None:
                event.nak(0, "the subscriber stops")
        self._waiting.put_nowait(None)
        try:
            await self._outer_config.hub.stop(service, drain=self._outer_config.graceful_timeout or 0.0)
        except NotFinished as error:
            self._log(logging.WARNING, str(error))


def create_subscriber(
    *,
    templates: Sequence[str],
    dialect: Dialect,
    service: str | None,
    delivery: Delivery | None,
    credit: int | None,
    order_by: str | int | None,
    max_handling: float | None,
    max_workers: int,
    ack_policy: AckPolicy,
    no_reply: bool,
    config: EventManagerBrokerConfig,
    title: str | None,
    description: str | None,
    include_in_schema: bool,
) -> EventManagerSubscriber:
    if dialect not in DIALECTS:
        raise SetupError(f"the dialect is one of {', '.join(DIALECTS)}, not {dialect!r}")
    if not templates:
        raise SetupError("a subscriber needs a subject")
    if max_workers < 1:
        raise SetupError(f"max_workers is at least 1, not {max_workers}")
    options = None
    if service is not None:
        if credit is not None and credit < max_workers:
            raise SetupError(f"credit ({credit}) is at least max_workers ({max_workers}): a handler can only run for an event that is held")
        options = ServiceOptions(
            name=service,
            delivery=delivery,
            credit=max(32, max_workers) if credit is None else credit,
            order_by=order_by,
            max_handling=600.0 if max_handling is None else max_handling,
        )
    else:
        given = {"delivery": delivery, "credit": credit, "order_by": order_by, "max_handling": max_handling}
        names = [name for name, value in given.items() if value is not None]
        if names:
            raise SetupError(f"{', '.join(names)}: only for subscribers with a service; add service=\"...\"")
        if ack_policy is not EMPTY:
            warnings.warn(
                "without a service there are no acknowledgements, so ack_policy does nothing; add service=\"...\"",
                RuntimeWarning,
                stacklevel=4,
            )
    calls = CallsCollection[Any]()
    specification = EventManagerSubscriberSpecification(
        config,
        EventManagerSubscriberSpecificationConfig(
            templates=templates, service=service, title_=title, description_=description, include_in_schema=include_in_schema
        ),
        calls,
    )
    subscriber_config = EventManagerSubscriberConfig(
        _outer_config=config,
        _ack_policy=ack_policy,
        no_reply=no_reply,
        templates=templates,
        dialect=dialect,
        service=options,
        max_workers=max_workers,
    )
    if options is None:
        return EventManagerPlainSubscriber(subscriber_config, specification, calls)
    try:
        return EventManagerServiceSubscriber(subscriber_config, specification, calls, options)
    except InvalidArgument as error:
        raise SetupError(str(error)) from error
