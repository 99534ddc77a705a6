"""Requests and their answers: connected and in memory.

The cases are those of FastStream's own tests for brokers (tests/brokers/base), which are on no package index.
"""

from typing import Any

import anyio
import pytest

from faststream_event_manager import (
    EventManagerResponse,
)


@pytest.mark.parametrize("service", [False, True])
async def test_request_and_answer(broker, enter, name, service):
    publisher = broker.publisher(name)

    @broker.subscriber(name, service=f"{name}.service" if service else None)
    async def handler(body: Any) -> EventManagerResponse:
        return EventManagerResponse(f"answer to {body}", headers={"x-more": "1"})

    async with enter(broker):
        for ask in (broker.request("q", name, correlation_id="9"), publisher.request("q", correlation_id="9")):
            answer = await ask
            assert await answer.decode() == "answer to q"
            assert (answer.correlation_id, answer.headers["x-more"]) == ("9", "1")
        assert [await (await each).decode() for each in [broker.request(str(n), name) for n in range(5)]] == [
            f"answer to {n}" for n in range(5)
        ]


async def test_an_answer_that_does_not_come(broker, enter, name):
    @broker.subscriber(name)
    async def handler(body: Any) -> str:
        await anyio.sleep(0.05)
        return "late"

    async with enter(broker):
        with pytest.raises(TimeoutError):
            await broker.request(None, name, timeout=1e-24)
        with pytest.raises(TimeoutError):
            await broker.request(None, name, timeout=0.01)


async def test_reply_to_and_no_reply(broker, enter, name, calls):
    @broker.subscriber(f"{name}.reply")
    async def reply(body: str) -> None:
        calls.append(body)

    @broker.subscriber(name)
    async def handler(body: str) -> str:
        return body + "!"

    @broker.subscriber(f"{name}.silent", no_reply=True)
    async def silent(body: str) -> str:
        calls.append("silent")
        return body

    async with enter(broker):
        await broker.publish("x", f"{name}.silent", reply_to=f"{name}.reply")
        await calls.wait(1)
        await broker.publish("x", name, reply_to=f"{name}.reply")
        assert await calls.wait(2) == ["silent", "x!"]
