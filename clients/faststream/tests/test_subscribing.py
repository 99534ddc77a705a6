"""Which handlers get an event, and with what: connected and in memory.

The cases are those of FastStream's own tests for brokers (tests/brokers/base), which are on no package index.
"""

from typing import Annotated, Any

import anyio
import pytest
from faststream import Context, Depends, Path

from faststream_event_manager import (
    EventManagerBroker,
    EventManagerPublisher,
    EventManagerRoute,
    EventManagerRouter,
)
from faststream_event_manager.annotations import EventManagerBroker as ABroker
from faststream_event_manager.annotations import EventManagerMessage as AMessage
from faststream_event_manager.annotations import Hub as AHub


async def test_filters_choose_the_handler(broker, enter, name, calls):
    subscriber = broker.subscriber(name)

    @subscriber(filter=lambda message: message.content_type == "application/json")
    async def as_json(body: Any) -> None:
        calls.append(("json", body))

    @subscriber
    async def others(body: Any) -> None:
        calls.append(("other", body))

    async with enter(broker):
        await broker.publish({"a": 1}, name)
        await calls.wait(1)
        await broker.publish("text", name)
        assert await calls.wait(2) == [("json", {"a": 1}), ("other", "text")]


async def test_one_handler_of_several_subscribers_and_brokers(enter, name, calls):
    one, two = EventManagerBroker(logger=None), EventManagerBroker(logger=None)

    @one.subscriber(name)
    @two.subscriber(f"{name}2")
    def handler(body: Any) -> None:
        calls.append(body)

    async with enter(one, two):
        await one.publish("a", name)
        await calls.wait(1)
        await two.publish("b", f"{name}2")
        assert await calls.wait(2) == ["a", "b"]


async def test_every_plain_subscriber_gets_an_event_and_one_of_a_service(enter, name, calls):
    first, second = EventManagerBroker(logger=None), EventManagerBroker(logger=None)
    for each in (first, second):

        @each.subscriber(name)
        async def plain() -> None:
            calls.append("plain")

        @each.subscriber(name, service=f"{name}.service")
        async def worker() -> None:
            calls.append("worker")

    async with enter(first, second):
        await first.publish("", name)
        await calls.wait(3)
        await anyio.sleep(0.2)
        assert sorted(calls) == ["plain", "plain", "worker"]


async def test_dependencies_and_context(broker, enter, name, calls):
    async def half(body: int) -> int:
        return body // 2

    @broker.subscriber(name)
    async def handler(
        body: int, other: Annotated[int, Depends(half)], a: ABroker, message: AMessage, hub: AHub, logger: Any = Context()
    ) -> None:
        calls.append((body, other, a is broker, message.subject))

    async with enter(broker):
        await broker.publish("8", name)
        assert await calls.wait(1) == [(8, 4, True, name)]


async def test_parameters_in_subjects(broker, enter, name, calls):
    @broker.subscriber(name + ".{kind}.of.{user}", name + ".{kind}")
    async def handler(kind: str = Path(), user: str = Path(default="nobody")) -> None:
        calls.append((kind, user))

    async with enter(broker):
        await broker.publish("", f"{name}.mail.of.ann")
        await calls.wait(1)
        await broker.publish("", f"{name}.sms")
        assert await calls.wait(2) == [("mail", "ann"), ("sms", "nobody")]


@pytest.mark.parametrize("service", [False, True])
@pytest.mark.parametrize(
    "pattern, dialect, ours, others",
    [
        (".*", "glob", ".a", ".a.b"),
        (".**", "glob", ".a.b", "x.a"),
        (".?", "glob", ".a", ".ab"),
        (".{{a}}", "glob", ".{a}", ".a"),
        (".*", "exact", ".*", ".a"),
        (".a", "prefix", ".abc", ".b"),
    ],
)
async def test_patterns(broker, enter, name, calls, service, pattern, dialect, ours, others):
    @broker.subscriber(name + pattern, dialect=dialect, service=f"{name}.service" if service else None)
    async def handler(message: AMessage) -> None:
        calls.append(message.subject)

    async with enter(broker):
        await broker.publish("", name + others)
        await broker.publish("", name + ours)
        assert await calls.wait(1) == [name + ours]


async def test_routers(broker, enter, name, calls):
    def delayed(body: Any) -> Any:
        return body

    inner = EventManagerRouter(prefix="b_")
    outer = EventManagerRouter(
        prefix="a_",
        routers=[inner],
        handlers=[EventManagerRoute(delayed, f"{name}.in", publishers=[EventManagerPublisher(f"{name}.out")])],
    )
    publisher = inner.publisher(f"{name}.resp")

    @inner.subscriber(name + ".{id}")
    async def handler(body: Any, id: str = Path()) -> None:
        calls.append((body, id))
        if id != "resp":
            await publisher.publish("resp")

    @outer.subscriber(f"{name}.out")
    async def out(body: Any) -> None:
        calls.append(body)

    broker.include_router(outer, prefix="c_")
    assert publisher.subject == f"c_a_b_{name}.resp"
    async with enter(broker):
        await broker.publish("x", f"c_a_b_{name}.7")
        assert await calls.wait(2) in ([("x", "7"), ("resp", "resp")], [("resp", "resp"), ("x", "7")])
        await broker.publish("y", f"c_a_{name}.in")
        assert (await calls.wait(3))[2] == "y"


async def test_a_subscriber_of_a_running_broker(broker, enter, name, calls):
    router = EventManagerRouter()
    broker.include_router(router)
    async with enter(broker):
        for registrator in (broker, router):
            subscriber = registrator.subscriber(name)

            @subscriber
            async def handler(body: str) -> None:
                calls.append(body)

            await subscriber.start()
            await broker.publish("x", name)
            await calls.wait(1)
            await subscriber.stop()
            calls.clear()
        await broker.publish("nobody hears it", name)
        await anyio.sleep(0.1)
        assert calls == []
