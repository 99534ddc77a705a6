"""Publishing and asking, over a hub."""

from __future__ import annotations

import asyncio
import itertools
import logging
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import anyio
from event_manager import Event, Receipt
from faststream._internal.endpoint.utils import ParserComposition
from faststream._internal.parser import DefaultCodec
from faststream._internal.producer import ProducerProto
from faststream.exceptions import FeatureNotSupportedException, IncorrectState

from .parser import EventParser, headers_of
from .response import EventManagerPublishCommand, Level

if TYPE_CHECKING:
    from event_manager.aio import AsyncHub, AsyncSubscription
    from fast_depends.library.serializer import SerializerProto
    from faststream._internal.parser import CodecProto
    from faststream._internal.types import AsyncCallable, CustomCallable

log = logging.getLogger("event_manager")


class EventManagerProducer(ProducerProto[EventManagerPublishCommand]):
    """Publishes by a hub, when it is connected."""

    _parser: AsyncCallable
    _decoder: AsyncCallable
    codec: CodecProto

    def __init__(self, parser: CustomCallable | None, decoder: CustomCallable | None, level: Level) -> None:
        default = EventParser()
        self._parser = ParserComposition(parser, default.parse_message)
        self._decoder = ParserComposition(decoder, default.decode_message)
        self.codec = DefaultCodec()
        self.level: Level = level
        self.serializer: SerializerProto | None = None
        self._hub: AsyncHub | None = None
        self._inbox: _Inbox | None = None

    def connect(self, hub: AsyncHub, serializer: SerializerProto | None, codec: CodecProto | None) -> None:
        self._hub = hub
        self.serializer = serializer
        self.codec = codec or DefaultCodec()

    async def disconnect(self) -> None:
        self._hub = None
        inbox, self._inbox = self._inbox, None
        if inbox is not None:
            await inbox.close()

    async def publish(self, cmd: EventManagerPublishCommand) -> Receipt | None:
        """Publishes an event; the daemon's receipt, if it is confirmed."""
        hub = self._connected()
        body, content_type = await self.codec.encode(cmd.body, self.serializer)
        level = cmd.level_of(self.level)
        headers = headers_of(cmd, content_type)
        if level == "none":
            await hub.publish(cmd.destination, body, headers=headers)
            return None
        return await hub.emit(
            cmd.destination, body, id=cmd.id, level=level, ttl=cmd.ttl, deliver_at=cmd.deliver_at, headers=headers
        )

    async def request(self, cmd: EventManagerPublishCommand) -> Event[bytes]:
        """Publishes an event with a subject for its answer, and waits for that. TimeoutError if none comes."""
        hub = self._connected()
        with anyio.fail_after(cmd.timeout):
            if self._inbox is None:
                self._inbox = _Inbox(hub)
            async with self._inbox.expect() as (subject, answer):
                cmd.reply_to = subject
                await self.publish(cmd)
                return await answer

    async def publish_batch(self, cmd: EventManagerPublishCommand) -> None:
        raise FeatureNotSupportedException("event-manager has no batches: publish the events one by one; nothing was sent")

    def _connected(self) -> AsyncHub:
        if self._hub is None:
            raise IncorrectState("the broker isn't connected: await broker.connect() first; nothing was sent")
        return self._hub


class _Inbox:
    """Subjects of this process for answers. It is subscribed when the first is expected."""

    def __init__(self, hub: AsyncHub) -> None:
        self._hub = hub
        self._prefix = f"_INBOX.{uuid4().hex}."
        self._numbers = itertools.count(1)
        self._answers: dict[str, asyncio.Future[Event[bytes]]] = {}
        self._lock = asyncio.Lock()
        self._subscription: AsyncSubscription | None = None
        self._reader: asyncio.Task[None] | None = None

    def expect(self) -> _Expected:
        return _Expected(self, f"{self._prefix}{next(self._numbers)}")

    async def open(self) -> None:
        async with self._lock:
            if self._subscription is None:
                self._subscription = await self._hub.subscribe(self._prefix)
                self._reader = asyncio.create_task(self._read(self._subscription))

    async def _read(self, subscription: AsyncSubscription) -> None:
        async for event in subscription:
            answer = self._answers.pop(event.subject, None)
            if answer is None:
                log.debug("an answer came too late: %r", event)
            elif not answer.done():
                answer.set_result(event)

    async def close(self) -> None:
        if self._subscription is not None:
            await self._subscription.close()
        if self._reader is not None:
            self._reader.cancel()
        for answer in self._answers.values():
            answer.cancel()


class _Expected:
    """One answer that is waited for."""

    def __init__(self, inbox: _Inbox, subject: str) -> None:
        self._inbox = inbox
        self._subject = subject

    async def __aenter__(self) -> tuple[str, asyncio.Future[Event[bytes]]]:
        await self._inbox.open()
        answer: asyncio.Future[Event[bytes]] = asyncio.get_running_loop().create_future()
        self._inbox._answers[self._subject] = answer
        return self._subject, answer

    async def __aexit__(self, *_: Any) -> None:
        self._inbox._answers.pop(self._subject, None)


__all__ = ["EventManagerProducer"]
