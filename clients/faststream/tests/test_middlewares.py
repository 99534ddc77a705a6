"""What stands between an event and its handler: connected and in memory.

The cases are those of FastStream's own tests for brokers (tests/brokers/base), which are on no package index.
"""

import contextlib
from typing import Any

from faststream import BaseMiddleware, ExceptionMiddleware
from faststream.exceptions import SkipMessage

from faststream_event_manager import (
    EventManagerBroker,
    EventManagerRouter,
)
from faststream_event_manager.annotations import EventManagerMessage as AMessage


async def test_parsers_and_decoders(enter, name, calls):
    async def parser(event, original):
        message = await original(event)
        message.body = b"parsed " + message.body
        return message

    async def decoder(message, original):
        return "decoded " + await original(message)

    broker = EventManagerBroker(logger=None, parser=parser, decoder=decoder)

    @broker.subscriber(name)
    async def handler(body: str) -> None:
        calls.append(body)

    async def plain_decoder(message):
        return message.body.decode()

    @broker.subscriber(f"{name}2", decoder=plain_decoder)
    async def other(body: str) -> None:
        calls.append(body)

    async with enter(broker):
        await broker.publish("x", name)
        await calls.wait(1)
        await broker.publish("x", f"{name}2")
        assert await calls.wait(2) == ["decoded parsed x", "parsed x"]


async def test_codecs(enter, name, calls):
    class Reversed:
        async def encode(self, message, serializer=None):
            return str(message)[::-1].encode(), "text/reversed"

        async def decode(self, message):
            return message.body.decode()[::-1]

    broker = EventManagerBroker(logger=None, codec=Reversed())

    @broker.subscriber(name)
    async def handler(body: str, message: AMessage) -> None:
        calls.append((body, message.body, message.content_type))

    async with enter(broker):
        await broker.publish("abc", name)
        assert await calls.wait(1) == [("abc", b"cba", "text/reversed")]


async def test_middlewares_and_their_order(enter, name, calls):
    def middleware(label):
        class Middleware(BaseMiddleware):
            async def on_receive(self):
                calls.append(f"{label} receives")
                return await super().on_receive()

            async def consume_scope(self, call_next, message):
                calls.append(f"{label} consumes")
                return await call_next(message)

            async def publish_scope(self, call_next, command):
                calls.append(f"{label} publishes")
                command.body = f"{command.body}{label}"
                return await call_next(command)

            async def after_processed(self, exc_type=None, exc_val=None, exc_tb=None):
                calls.append(f"{label} is done")
                return await super().after_processed(exc_type, exc_val, exc_tb)

        return Middleware

    broker = EventManagerBroker(logger=None, middlewares=[middleware("1")])
    router = EventManagerRouter(middlewares=[middleware("3")])

    @router.subscriber(name)
    async def handler(body: str) -> None:
        calls.append(body)

    broker.include_router(router, middlewares=[middleware("2")])
    async with enter(broker):
        await broker.publish("x", name)
        assert await calls.wait(11) == [
            "1 publishes",
            "1 receives", "2 receives", "3 receives",
            "1 consumes", "2 consumes", "3 consumes",
            "x1",
            "3 is done", "2 is done", "1 is done",
        ]  # fmt: skip


async def test_requests_pass_the_middlewares(enter, name):
    class Double(BaseMiddleware):
        async def consume_scope(self, call_next, message):
            message.body *= 2
            return await call_next(message)

        async def publish_scope(self, call_next, command):
            command.body *= 2
            return await call_next(command)

    broker = EventManagerBroker(logger=None, middlewares=[Double])
    publisher = broker.publisher(name)

    @broker.subscriber(name)
    async def handler(body: Any) -> Any:
        return body

    async with enter(broker):
        assert await (await broker.request("x", name)).decode() == "x" * 16
        assert await (await publisher.request("x")).decode() == "x" * 16


async def test_exceptions_handled_by_a_middleware(enter, name, calls):
    handlers = ExceptionMiddleware()

    @handlers.add_handler(ValueError, publish=True)
    async def mended(error: ValueError) -> str:
        return f"mended {error}"

    broker = EventManagerBroker(logger=None, middlewares=[handlers])

    @broker.subscriber(name)
    @broker.publisher(f"{name}.out")
    async def handler(body: str) -> str:
        raise ValueError(body)

    @broker.subscriber(f"{name}.out")
    async def out(body: str) -> None:
        calls.append(body)

    async with enter(broker):
        await broker.publish("x", name)
        assert await calls.wait(1) == ["mended x"]


async def test_skipped_messages(enter, name, calls):
    class Skip(BaseMiddleware):
        async def consume_scope(self, call_next, message):
            if await message.decode() == "skip":
                calls.append("skipped")
                raise SkipMessage
            return await call_next(message)

    broker = EventManagerBroker(logger=None, middlewares=[Skip])

    @broker.subscriber(name)
    async def handler(body: str) -> None:
        calls.append(body)

    async with enter(broker):
        with contextlib.suppress(SkipMessage):  # In memory, what is raised is seen.
            await broker.publish("skip", name)
        await calls.wait(1)
        await broker.publish("x", name)
        assert await calls.wait(2) == ["skipped", "x"]
