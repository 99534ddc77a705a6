"""The cases of FastStream's own tests for brokers (tests/brokers/base), which are on no package index: connected and in memory."""

import asyncio
import contextlib
import dataclasses
import json
from datetime import datetime, timezone
from typing import Annotated, Any
from unittest.mock import MagicMock

import anyio
import pytest
from faststream import BaseMiddleware, Context, Depends, ExceptionMiddleware, FastStream, Path, Response, TestApp
from faststream.exceptions import SetupError, SkipMessage, StopConsume
from faststream_event_manager import (
    EventManagerBroker,
    EventManagerPublisher,
    EventManagerResponse,
    EventManagerRoute,
    EventManagerRouter,
)
from faststream_event_manager.annotations import EventManagerBroker as ABroker
from faststream_event_manager.annotations import EventManagerMessage as AMessage
from faststream_event_manager.annotations import Hub as AHub
from pydantic import BaseModel, ValidationError


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
