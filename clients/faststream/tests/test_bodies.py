"""Bodies, what a handler returns, publishers: connected and in memory.

The cases are those of FastStream's own tests for brokers (tests/brokers/base), which are on no package index.
"""

import dataclasses
from datetime import datetime, timezone

import pytest
from faststream import Response
from pydantic import BaseModel

from faststream_event_manager.annotations import EventManagerMessage as AMessage


class Model(BaseModel):
    r: str


@dataclasses.dataclass
class Plain:
    r: str


NOW = datetime.now(timezone.utc)


@pytest.mark.parametrize(
    "sent, wanted, got",
    [
        ("hello", str, "hello"),
        (b"hello", bytes, b"hello"),
        (1, int, 1),
        (1.0, float, 1.0),
        (1, float, 1.0),
        (False, bool, False),
        ({"m": 1}, dict[str, int], {"m": 1}),
        ([1, 2, 3], list[int], [1, 2, 3]),
        (NOW, datetime, NOW),
        (b'{"r":"x"}', Plain, Plain("x")),
        (Plain("x"), Plain, Plain("x")),
        (Plain("x"), dict, {"r": "x"}),
        ({"r": "x"}, Plain, Plain("x")),
        (b'{"r":"x"}', Model, Model(r="x")),
        (Model(r="x"), Model, Model(r="x")),
        (Model(r="x"), dict, {"r": "x"}),
        ({"r": "x"}, Model, Model(r="x")),
    ],
)
async def test_bodies(broker, enter, name, calls, sent, wanted, got):
    @broker.subscriber(name)
    async def handler(body: wanted) -> None:
        calls.append(body)

    async with enter(broker):
        await broker.publish(sent, name)
        assert await calls.wait(1) == [got]


async def test_a_body_becomes_arguments(broker, enter, name, calls):
    @broker.subscriber(name)
    async def handler(a: int, b: int) -> None:
        calls.append((a, b))

    @broker.subscriber(f"{name}list")
    async def many(a: int, *more: tuple[int, ...]) -> None:
        calls.append((a, more))

    async with enter(broker):
        await broker.publish({"a": 1, "b": 2.0}, name)
        await calls.wait(1)
        await broker.publish([1, 2.0, 3.0], f"{name}list")
        assert await calls.wait(2) == [(1, 2), (1, (2, 3))]


async def test_what_a_handler_returns_is_published_with_its_headers(broker, enter, name, calls):
    @broker.subscriber(name)
    @broker.publisher(f"{name}.one", headers={"common": "c"})
    @broker.publisher(f"{name}.two")
    async def handler(body: str):
        return Response(1, headers={"custom": "1"}, correlation_id="77")

    @broker.subscriber(f"{name}.one", f"{name}.two")
    async def next_one(body: int, message: AMessage) -> None:
        calls.append((message.subject[-3:], body, message.headers.get("custom"), message.headers.get("common"), message.correlation_id))

    async with enter(broker):
        await broker.publish("x", name)
        assert sorted(await calls.wait(2)) == [("one", 1, "1", "c", "77"), ("two", 1, "1", None, "77")]


async def test_a_correlation_id_goes_on(broker, enter, name, calls):
    @broker.subscriber(name)
    @broker.publisher(f"{name}.next")
    async def handler(body: str) -> str:
        return body

    @broker.subscriber(f"{name}.next")
    async def next_one(message: AMessage) -> None:
        calls.append(message.correlation_id)

    async with enter(broker):
        await broker.publish("x", name, correlation_id="abc")
        assert await calls.wait(1) == ["abc"]


async def test_publishers_as_objects(broker, enter, name, calls):
    publisher = broker.publisher(f"{name}.resp")

    @publisher
    @broker.subscriber(name)
    async def first() -> str:
        return "returned"

    @broker.subscriber(f"{name}2")
    async def second() -> None:
        await publisher.publish("published")

    @broker.subscriber(f"{name}.resp")
    async def got(body: str) -> None:
        calls.append(body)

    async with enter(broker):
        await broker.publish("", name)
        await calls.wait(1)
        await broker.publish("", f"{name}2")
        assert await calls.wait(2) == ["returned", "published"]
        await broker.publisher(f"{name}.resp").publish("late")
        assert await calls.wait(3) == ["returned", "published", "late"]
