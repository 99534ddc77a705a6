"""An application: its start, mocks, document, and what is wrong: connected and in memory.

The cases are those of FastStream's own tests for brokers (tests/brokers/base), which are on no package index.
"""

import asyncio
import dataclasses
import json
from typing import Any
from unittest.mock import MagicMock

import anyio
import pytest
from faststream import (
    FastStream,
    TestApp,
)
from faststream.exceptions import SetupError, StopConsume
from pydantic import BaseModel, ValidationError

from faststream_event_manager import (
    EventManagerBroker,
)


class Model(BaseModel):
    r: str


@dataclasses.dataclass
class Plain:
    r: str


async def test_an_application(broker, enter, name, calls):
    other = EventManagerBroker(logger=None)

    @broker.subscriber(name)
    @other.publisher(f"{name}.other")
    async def handler(body: str) -> str:
        return body

    @broker.subscriber(f"{name}.other")
    async def crossed(body: str) -> None:
        calls.append(body)

    app = FastStream(broker, other)
    async with enter(broker, other), TestApp(app):
        await broker.publish("x", name)
        assert await calls.wait(1) == ["x"]


async def test_many_workers_at_a_time(broker, name, calls):
    for service in (None, f"{name}.service"):
        running, most = 0, 0
        calls.clear()
        subscriber = broker.subscriber(f"{name}{service}", max_workers=5, service=service)

        @subscriber
        async def handler() -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await anyio.sleep(0.05)
            running -= 1
            calls.append(1)

        await broker.start()
        await asyncio.gather(*(broker.publish("", f"{name}{service}") for _ in range(20)))
        await calls.wait(20)
        assert most == 5
        await subscriber.stop()
    await broker.stop()


async def test_wrong_arguments_are_said_where_they_are_written(broker, enter, name):
    for arguments, sentence in [
        ({"delivery": "queue"}, "only for subscribers with a service"),
        ({"dialect": "regex"}, "the dialect is one of"),
        ({"service": "x", "credit": 0}, "credit \\(0\\) is at least max_workers"),
        ({"service": ""}, "a service's name"),
        ({"max_workers": 0}, "max_workers is at least 1"),
    ]:
        with pytest.raises(SetupError, match=sentence):
            broker.subscriber(name, **arguments)
    for template, sentence in [("a{b", "write {{"), ("a.{b}.{b}", "twice"), ("a.{1b}", "a parameter is a name")]:
        with pytest.raises(SetupError, match=sentence):
            broker.subscriber(template)
    with pytest.raises(SetupError, match="needs a subject"):
        broker.subscriber()
    with pytest.raises(SetupError, match="level is one of"):
        EventManagerBroker(level="cloud")
    with pytest.raises(SetupError, match="EventManagerRouter"):
        broker.include_router(object())
    async with enter(broker):
        with pytest.raises(SetupError, match="level is one of"):
            await broker.publish("", name, level="cloud")


async def test_what_a_handler_can_not_take_is_an_error_in_memory(broker, name):
    from faststream_event_manager import TestEventManagerBroker

    @broker.subscriber(name)
    async def handler(body: int) -> None: ...

    async with TestEventManagerBroker(broker):
        with pytest.raises(ValidationError):
            await broker.publish("x", name)


async def test_mocks(broker, name):
    from faststream_event_manager import TestEventManagerBroker

    publisher = broker.publisher(f"{name}.resp")

    @publisher
    @broker.subscriber(name, service=name)
    async def handler(body: Any) -> str:
        return "response"

    for _ in range(2):
        async with TestEventManagerBroker(broker) as test:
            assert test is broker
            await broker.publish("hello", name)
            handler.mock.assert_called_once_with("hello")
            publisher.mock.assert_called_once_with("response")
    assert broker._connection is None


async def test_mocks_with_the_daemon(broker, name):
    from faststream_event_manager import TestEventManagerBroker

    publisher = broker.publisher(f"{name}.resp")

    @broker.subscriber(name)
    async def handler(body: Any) -> None:
        await publisher.publish(f"response: {body}")

    async with TestEventManagerBroker(broker, with_real=True):
        await broker.publish("hello", name)
        await handler.wait_call(30)
        handler.mock.assert_called_once_with("hello")
        with anyio.fail_after(30):
            while not publisher.mock.called:
                await anyio.sleep(0.01)
        publisher.mock.assert_called_once_with("response: hello")
    await broker.stop()


async def test_an_asyncapi_document(broker, name):
    @broker.subscriber(f"{name}.*", f"{name}", service="Billing", title="Bill", description="Bills orders.")
    @broker.publisher(f"{name}.billed")
    async def handler(body: Model) -> Plain: ...

    @broker.subscriber("hidden", include_in_schema=False)
    async def hidden(body: Any) -> None: ...

    from faststream.specification import AsyncAPI

    for version in ("2.6.0", "3.0.0"):
        document = json.loads(AsyncAPI(broker, schema_version=version).to_specification().to_json())
        server = document["servers"]["development"]
        assert server["protocol"] == "event-manager" and "127.0.0.1" in json.dumps(server)
        text = json.dumps(document)
        assert "Bills orders." in text and "Service: Billing" in text and "hidden" not in text
        assert f"{name}.billed" in text and '"r"' in text
        assert f"{name}.*" in text and [each for each in document["channels"] if each.startswith("Bill")]


async def test_stop_before_start_and_ping(daemon):
    broker = EventManagerBroker(logger=None)
    assert await broker.ping() is False
    await broker.stop()
    await broker.connect()
    assert await broker.ping(timeout=5.0) is True
    await broker.stop()
    assert await broker.ping() is False


async def test_get_one_and_iteration(broker, name):
    for service in (None, f"{name}.service"):
        subscriber = broker.subscriber(f"{name}{service}", service=service)
        await broker.connect()
        await subscriber.start()
        assert await subscriber.get_one(timeout=1e-24) is None
        await broker.publish("one", f"{name}{service}")
        message = await subscriber.get_one(timeout=30)
        assert await message.decode() == "one"
        await message.ack()
        await broker.publish("two", f"{name}{service}")
        await broker.publish("three", f"{name}{service}")
        got = []
        async for message in subscriber:
            got.append(await message.decode())
            await message.ack()
            if len(got) == 2:
                break
        assert got == ["two", "three"]
        await subscriber.stop()
    handled = broker.subscriber("x")
    handled(MagicMock(__name__="handler", spec=lambda body: None))
    with pytest.raises(AssertionError, match="go to the subscriber's handlers"):
        await handled.get_one()
    await broker.stop()


@pytest.mark.parametrize("service", [False, True])
async def test_a_handler_stops_its_subscriber(broker, name, calls, service):
    @broker.subscriber(name, service=name if service else None)
    async def handler(body: str) -> None:
        calls.append(body)
        raise StopConsume

    await broker.start()
    await broker.publish("1", name)
    await calls.wait(1)
    await anyio.sleep(0.3)
    await broker.publish("2", name)
    await anyio.sleep(0.3)
    assert calls == ["1"]
    with anyio.fail_after(5):
        await broker.stop()
