"""dotmac's events on the real daemon."""

import asyncio
import functools
import subprocess
import sys

import pytest

import event_manager as em
from event_manager._ask import ask
from event_manager.compat.dotmac import (
    ConsumerOptions,
    DLQEntry,
    Event,
    JsonCodec,
    KafkaConfig,
    MemoryConfig,
    MemoryEventBus,
    NoSubscribers,
    PublishError,
    RedisConfig,
    RequestFailed,
    RequestTimeout,
    SimpleDLQ,
    ZmqConfig,
    alert_on_dlq_entry,
    create_default_hooks,
    create_dlq_consumer,
    create_dotmac_observability_hooks,
    create_exponential_retry_options,
    create_kafka_bus,
    create_memory_bus,
    create_redis_bus,
    create_retry_wrapper,
    create_simple_retry_options,
    create_zmq_bus,
    log_dlq_entry,
    run_consumer,
)
from event_manager.compat.dotmac.consumer import BackoffPolicy, RetryPolicy

PATIENCE = 60.0


@pytest.fixture(autouse=True)
def address(hub, monkeypatch):
    monkeypatch.setenv("EVENT_MANAGER_CLIENT_ADDRESS", hub.address)


def in_loop(test):
    @functools.wraps(test)
    def run(*arguments, **named):
        asyncio.run(asyncio.wait_for(test(*arguments, **named), PATIENCE))

    return run


class Seen:
    def __init__(self):
        self.items = []
        self._changed = asyncio.Condition()

    async def __call__(self, event):
        async with self._changed:
            self.items.append(event)
            self._changed.notify_all()

    async def wait(self, count):
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.items) >= count)
            return self.items


def test_the_readme_s_code_runs_with_import_shims(hub, tmp_path):
    (tmp_path / "app.py").write_text(
        '''import asyncio
from dotmac.events import Event, create_memory_bus, ConsumerOptions, run_consumer
from dotmac.events.consumer import RetryPolicy

async def main():
    # Create event bus
    bus = create_memory_bus()

    # Define event handler
    async def handle_user_created(event):
        print(f"User created: {event.payload}")

    # Subscribe to events
    options = ConsumerOptions(max_retries=3)
    await run_consumer(bus, "user.created", handle_user_created, options)

    # Publish an event
    event = Event(
        topic="user.created",
        payload={"user_id": 123, "name": "John Doe", "email": "john@example.com"},
        key="user-123",
        tenant_id="acme-corp"
    )
    await bus.publish(event)

    # Keep running
    await asyncio.sleep(1)
    await bus.close()

if __name__ == "__main__":
    asyncio.run(main())
'''
    )
    done = subprocess.run(
        [sys.executable, "-m", "event_manager.compat", "--as", "dotmac", "app.py"],
        cwd=tmp_path, env={"EVENT_MANAGER_CLIENT_ADDRESS": hub.address}, capture_output=True, text=True, timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "User created: {'user_id': 123, 'name': 'John Doe', 'email': 'john@example.com'}\n"


@in_loop
async def test_events_come_as_they_were_published(hub):
    for bus in (create_memory_bus(), create_redis_bus(RedisConfig(url="redis://x:1/0")), create_kafka_bus(KafkaConfig(acks="all")), create_zmq_bus()):
        async with bus:
            seen = Seen()
            await bus.subscribe("user.updated", seen)
            event = Event("user.updated", {"id": 1, "name": "ü"}, key="user-1", headers={"source": "svc"}, tenant_id="acme")
            await bus.publish(event, headers={"x-more": 5})
            [came] = await seen.wait(1)
            assert (came.topic, came.payload, came.key, came.tenant_id, came.id) == (event.topic, event.payload, "user-1", "acme", event.id)
            assert came.timestamp == event.timestamp and came.headers == {"source": "svc", "x-more": "5"}
            assert came.metadata.event_id == event.id


@in_loop
async def test_each_group_gets_each_event_and_its_members_share_them(hub):
    async with create_memory_bus() as one, create_memory_bus() as other:
        a1, a2, b = Seen(), Seen(), Seen()
        await one.subscribe("t", a1, group="a")
        await other.subscribe("t", a2, group="a")
        await one.subscribe("t", b, group="b", concurrency=5)
        for number in range(20):
            await other.publish(Event("t", {"n": number}))
        await b.wait(20)
        await asyncio.get_running_loop().run_in_executor(None, hub.wait_idle)
        assert sorted(each.payload["n"] for each in a1.items + a2.items) == list(range(20))
        assert sorted(each.payload["n"] for each in b.items) == list(range(20))
        assert one.get_stats() == {"published_count": 0, "consumed_count": 20 + len(a1.items), "active_topics": 0, "active_subscriptions": 2}


@in_loop
async def test_handlers_run_at_the_same_time(hub):
    async with create_memory_bus() as bus:
        running, all_there = 0, asyncio.Event()

        async def handler(event):
            nonlocal running
            running += 1
            if running == 5:
                all_there.set()
            await all_there.wait()

        await run_consumer(bus, "t", handler, group="g", concurrency=5)
        for _ in range(5):
            await bus.publish(Event("t", {}))
        await all_there.wait()


@in_loop
async def test_retries_dead_letters_and_hooks(hub):
    hooks, told = create_default_hooks(), []
    async with create_memory_bus(hooks=hooks) as bus:
        entries, seen = Seen(), []
        options = create_exponential_retry_options(
            2, 5, 50,
            on_retry=lambda event, count, error: told.append(("retry", count, str(error))),
            on_dlq=lambda event, error: told.append(("dlq", str(error))),
            on_success=lambda event: told.append(("success", event.payload["ok"])),
        )

        def handle(event):
            seen.append(event.payload["ok"])
            if event.payload["ok"] > len(seen):
                raise ValueError("not yet")

        await create_dlq_consumer(bus=bus, dlq_topic="orders.DLQ", handler=entries, group="dlq-processor")
        await run_consumer(bus, "orders", handle, options, group="order-processor")
        await bus.publish(Event("orders", {"ok": 100}, key="k", headers={"x-custom": "h"}, tenant_id="t"))
        [entry] = await entries.wait(1)
        assert (entry.original_topic, entry.error, entry.error_type, entry.retry_count) == ("orders", "not yet", "ValueError", 2)
        assert (entry.dlq_topic, entry.original_event.headers, entry.original_event.tenant_id) == ("orders.DLQ", {"x-custom": "h"}, "t")
        await log_dlq_entry(entry)
        await alert_on_dlq_entry(entry)
        again = entry.to_event()
        again.payload = {"ok": 1}
        assert again.topic == "orders" and again.headers["x-dlq-reprocessing"] == "true"
        assert again.headers["x-original-retry-count"] == "2"
        await bus.publish(again)
        await asyncio.get_running_loop().run_in_executor(None, hub.wait_idle)
    assert seen == [100, 100, 100, 1]
    assert told == [("retry", 1, "not yet"), ("retry", 2, "not yet"), ("dlq", "not yet"), ("success", 1)]
    assert hooks.counts == {
        "events_published_total": 3, "events_consumed_total": 5, "events_retried_total": 2, "events_dlq_total": 1
    }
    assert hooks.seconds["event_consume_duration_seconds"] > 0


@in_loop
async def test_only_some_exceptions_are_tried_again(hub):
    async with create_memory_bus() as bus:
        entries, calls = Seen(), []

        async def handler(event):
            calls.append(event)
            raise KeyError("x")

        policy = RetryPolicy(max_retries=3, retry_on_exceptions=(ValueError, TimeoutError))
        assert not policy.should_retry(KeyError(), 0) and policy.should_retry(ValueError(), 2) and not policy.should_retry(ValueError(), 3)
        await create_dlq_consumer(bus, "production.dlq", entries)
        await run_consumer(bus, "t", handler, policy.to_options(dlq_topic="production.dlq"))
        await bus.publish(Event("t", {}))
        [entry] = await entries.wait(1)
        assert (len(calls), entry.retry_count, entry.error_type) == (1, 0, "KeyError")


@in_loop
async def test_retries_survive_the_consumer(hub):
    async with create_memory_bus(MemoryConfig(delivery="queue")) as first:
        failed = asyncio.Event()

        def fails(event):
            failed.set()
            raise ValueError

        await run_consumer(first, "t", fails, create_simple_retry_options(5, 10), group="g")
        await first.publish(Event("t", {}))
        await failed.wait()
    async with create_memory_bus(MemoryConfig(delivery="queue")) as second:
        seen = Seen()
        await run_consumer(second, "t", seen, group="g")
        await seen.wait(1)


@in_loop
async def test_handlers_that_raise_without_options_are_not_called_again(hub):
    async with create_memory_bus() as bus:
        calls = Seen()

        async def handler(event):
            await calls(event)
            if event.payload["bad"]:
                raise ValueError("no")

        await bus.subscribe("t", handler, group="g")
        await bus.publish(Event("t", {"bad": True}))
        await bus.publish(Event("t", {"bad": False}))
        await calls.wait(2)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, hub.wait_idle)
        assert len(calls.items) == 2
        found = await loop.run_in_executor(None, ask, hub.address, {"token": "dlq", "op": "list", "service": "t@g"}, PATIENCE)
        assert [each["subject"] for each in found["letters"]] == ["t"]


@in_loop
async def test_requests_are_answered(hub):
    async with create_memory_bus() as bus, create_memory_bus() as client:

        async def handle_request(event):
            if event.topic == "calculate.sum":
                return {"result": sum(event.payload["numbers"])}

        await bus.subscribe("calculate.sum", handle_request)
        response = await client.request("calculate.sum", {"numbers": [1, 2, 3, 4, 5]}, timeout=PATIENCE)
        assert response["result"] == 15

        async def by_hand(event):
            headers = {"correlation_id": event.headers["correlation_id"]}
            await bus.publish(Event("hand.reply", {"result": event.payload["value"] * 2}, headers=headers))

        await bus.subscribe("hand", by_hand)
        answers = await asyncio.gather(*(client.request("hand", {"value": n}, timeout=PATIENCE) for n in range(10)))
        assert [each["result"] for each in answers] == [n * 2 for n in range(10)]
        with pytest.raises(RequestFailed, match="TypeError"):
            await client.request("calculate.sum", {"numbers": 5}, timeout=PATIENCE)
        with pytest.raises(NoSubscribers):
            await client.request("nobody", {}, timeout=PATIENCE)
        await bus.subscribe("silent", lambda event: None)
        with pytest.raises(RequestTimeout):
            await client.request("silent", {}, timeout=0.05)


@in_loop
async def test_wrappers_try_again_in_this_process(hub):
    async with create_memory_bus() as bus:
        entries, calls = Seen(), []
        await bus.subscribe("t.DLQ", entries)

        async def failing(event):
            calls.append(event)
            if len(calls) != 3:
                raise ValueError("Test error")

        wrapper = create_retry_wrapper(failing, bus, ConsumerOptions(max_retries=1, backoff_base_ms=1))
        await wrapper(Event("t", {"key": "value"}, headers={"x-custom": "header"}))
        await wrapper(Event("t", {}))
        [event] = await entries.wait(1)
        assert event.payload == {"key": "value"} and event.headers["x-custom"] == "header" and event.headers["x-retry-count"] == "1"
        assert (event.headers["x-error"], event.headers["x-error-type"], event.headers["x-original-topic"]) == ("Test error", "ValueError", "t")
        assert len(calls) == 3
        await SimpleDLQ(bus).send_to_dlq(Event("t", {}), ValueError("x"), 3)
        await entries.wait(2)


@in_loop
async def test_queues_histories_and_registries(hub):
    counted = []

    class Registry:
        def increment_counter(self, name, value, labels):
            counted.append((name, labels.get("tenant_id")))

        def observe_histogram(self, name, value, labels):
            counted.append((name, None))

    async with create_memory_bus(MemoryConfig(enable_persistence=True, delivery="queue")) as bus:
        bus.use_hooks(create_dotmac_observability_hooks(metrics_registry=Registry(), tenant_metrics=Registry()))
        first = create_memory_bus(MemoryConfig(delivery="queue"))
        await first.subscribe("t", Seen())
        await first.close()
        await bus.publish(Event("t", {}, tenant_id="acme"))
        await bus.publish(Event("u", {}))
        assert bus.get_queue_size("t") == 1 and bus.get_queue_size("u") == 1
        assert [each.topic for each in bus.get_event_history()] == ["t", "u"] and len(bus.get_event_history("u")) == 1
        assert counted[:3] == [("events_published_total", None), ("events_published_total", "acme"), ("event_publish_duration_seconds", None)]
        assert bus.metadata.name == "memory" and "request" in bus.metadata.supported_features


@in_loop
async def test_what_cannot_be_is_refused_with_typed_errors(hub):
    def validate_schema(topic, payload):
        if topic == "user.created" and "user_id" not in payload:
            raise ValueError("user_id is required")

    bus = create_memory_bus(codec=JsonCodec.with_schema_validation(validate_schema))
    for event in (Event("user.created", {}), Event("", {}), Event("t", {"x": object()})):
        with pytest.raises(em.InvalidArgument):
            await bus.publish(event)
    with pytest.raises(em.InvalidArgument):
        await bus.subscribe("t", None)
    with pytest.raises(em.InvalidArgument):
        ConsumerOptions(max_retries=-1)
    with pytest.raises(em.InvalidArgument):
        create_dotmac_observability_hooks(object())
    await bus.close()
    await bus.close()
    assert bus.is_closed
    with pytest.raises(RuntimeError, match="adapter is closed"):
        await bus.publish(Event("t", {}))
    away = create_zmq_bus(ZmqConfig(address="tcp://127.0.0.1:1", connection_timeout=0.05))
    with pytest.raises(PublishError):
        await away.publish(Event("t", {}))
    await away.close()


def test_options_and_policies():
    assert ConsumerOptions(dlq_topic="custom.dlq").get_dlq_topic("any") == "custom.dlq"
    assert ConsumerOptions().get_dlq_topic("t") == "t.DLQ"
    simple, doubled = create_simple_retry_options(5, 500), create_exponential_retry_options(3, 100)
    assert (simple.max_retries, simple.backoff_base_ms, simple.backoff_multiplier, simple.backoff_jitter_ms) == (5, 500, 1.0, 0)
    assert (doubled.max_retries, doubled.backoff_multiplier, doubled.backoff_jitter_ms) == (3, 2.0, 50)
    assert [BackoffPolicy(100, 2.0).calculate_delay(n) for n in range(3)] == [0.1, 0.2, 0.4]
    assert BackoffPolicy(100, 2.0, 300).calculate_delay(5) == 0.3
    assert DLQEntry.from_event(Event("t.DLQ", {})).retry_count == 0
    assert MemoryConfig(max_connections=5).to_dict()["max_connections"] == 5


@in_loop
async def test_a_memory_bus_keeps_events_until_somebody_subscribes(hub):
    async with MemoryEventBus(MemoryConfig(max_queue_size=3)) as bus:
        assert bus.metadata.name == "memory"
        for number in range(3):
            await bus.publish(Event("t", {"n": number}))
        with pytest.raises(PublishError, match="queue is full.*was not taken"):
            await bus.publish(Event("t", {"n": 3}))
        assert bus.get_queue_size("t") == 3 and bus.get_stats()["published_count"] == 3 and bus.get_stats()["active_topics"] == 1
        await SimpleDLQ(bus).send_to_dlq(Event("t", {}), ValueError("x"), 1)
        assert bus.get_queue_size("t.DLQ") == 1 and bus.get_queue_size("t", "default") == 0
        seen = Seen()
        await bus.subscribe("t", seen)
        await bus.publish(Event("t", {"n": 4}))
        await seen.wait(4)
        assert [each.payload["n"] for each in seen.items] == [0, 1, 2, 4] and bus.get_queue_size("t") == 0
        # Somebody elsewhere has subscribed: those that wait go before the next one.
        await bus.publish(Event("u", {"n": 0}))
        async with create_zmq_bus() as other:
            also = Seen()
            await other.subscribe("u", also)
            await bus.publish(Event("u", {"n": 1}))
            await also.wait(2)
            assert [each.payload["n"] for each in also.items] == [0, 1]
        # Requests are for those who are there.
        with pytest.raises(NoSubscribers):
            await bus.request("v", {})
        assert bus.get_queue_size("v") == 0
