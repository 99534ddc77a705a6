"""The RabbitMQ building blocks on the real daemon."""

import datetime
import subprocess
import sys
import threading

import pytest

import event_manager as em
from event_manager._ask import ask
from event_manager.compat.pika.exceptions import AMQPConnectionError, ConnectionWrongStateError
from event_manager.compat.pubsub.amqp_connection import AMQPConfig, AMQPConnection
from event_manager.compat.pubsub.event_base import Event, EventSerializer
from event_manager.compat.pubsub.events import OrderCreatedEvent, OrderPaidEvent, UserRegisteredEvent
from event_manager.compat.pubsub.handler_registry import HandlerRegistry, HandlersFailed
from event_manager.compat.pubsub.handlers import LogAnalyticsHandler, SendEmailHandler, UpdateInventoryHandler
from event_manager.compat.pubsub.publisher import EventPublisher
from event_manager.compat.pubsub.subscriber import EventSubscriber, QueueConfig

PATIENCE = 60.0


class Seen:
    def __init__(self):
        self.items = []
        self.changed = threading.Condition()

    async def handle(self, event):
        with self.changed:
            self.items.append(event)
            self.changed.notify_all()

    def wait(self, count):
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.items) >= count, PATIENCE), self.items


class Broken:
    def handle(self, event):
        raise RuntimeError(f"no {event.action}")


@pytest.fixture
def connect(hub, monkeypatch):
    monkeypatch.setenv("EVENT_MANAGER_CLIENT_ADDRESS", hub.address)
    made = []

    def connect():
        made.append(AMQPConnection(AMQPConfig(host="localhost", port=5672)))
        made[-1].connect()
        return made[-1]

    yield connect
    for each in made:
        each.close()


@pytest.fixture
def consume(connect):
    threads = []

    def consume(registry, queue="my-service-queue", routing_key="#", **more):
        subscriber = EventSubscriber(
            connection=connect(), queue_name=queue, handler_registry=registry, exchange_name="events", **more
        )
        subscriber.setup_queue(routing_key=routing_key)
        thread = threading.Thread(target=subscriber.start_consuming)
        thread.start()
        threads.append((subscriber, thread))
        return subscriber

    yield consume
    for subscriber, thread in threads:
        subscriber.connection.close()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_the_readme_s_code_runs_with_import_shims(hub, tmp_path):
    (tmp_path / "app.py").write_text(
        '''import logging, threading
from pubsub.amqp_connection import AMQPConfig, AMQPConnection
from pubsub.event_base import Event
from pubsub.events import OrderCreatedEvent
from pubsub.handler_registry import HandlerRegistry
from pubsub.publisher import EventPublisher
from pubsub.subscriber import EventSubscriber, QueueConfig

done = threading.Semaphore(0)

class CustomHandler:
    async def handle(self, event: Event) -> None:
        print(f"Processing: {event.domain}.{event.action}", flush=True)
        done.release()

registry = HandlerRegistry()
registry.subscribe("order.created", CustomHandler())
registry.subscribe("order.*", CustomHandler())
registry.subscribe("*.created", CustomHandler())
registry.subscribe("*", CustomHandler())

config = AMQPConfig(host="localhost", port=5672)
connection = AMQPConnection(config)
connection.connect()
connection.declare_exchange("events", exchange_type="topic", durable=True)
subscriber_connection = AMQPConnection(config)
subscriber_connection.connect()
publisher = EventPublisher(connection, "events")
subscriber = EventSubscriber(
    connection=subscriber_connection,
    queue_name="my-service-queue",
    handler_registry=registry,
    exchange_name="events",
    queue_config=QueueConfig(durable=True),
    prefetch_count=1
)
subscriber.setup_queue(routing_key="#")
publisher.publish(OrderCreatedEvent(data={"order_id": "ORD-123"}))
publisher.publish(Event(domain="payment", action="processed", data={"payment_id": "PAY-456", "amount": 99.99}))
thread = threading.Thread(target=subscriber.start_consuming)
thread.start()
for _ in range(5):
    done.acquire()
subscriber.stop_consuming()
thread.join()
connection.close()
subscriber_connection.close()
'''
    )
    done = subprocess.run(
        [sys.executable, "-m", "event_manager.compat", "--as", "pubsub", "app.py"],
        cwd=tmp_path, env={"EVENT_MANAGER_CLIENT_ADDRESS": hub.address}, capture_output=True, text=True, timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "Processing: order.created\n" * 4 + "Processing: payment.processed\n"
    hub.wait_idle()


def test_several_handlers_and_queues(hub, connect, consume):
    every, orders = Seen(), Seen()
    registry, other = HandlerRegistry(), HandlerRegistry()
    registry.subscribe("*", every)
    registry.subscribe("order.*", LogAnalyticsHandler())
    registry.subscribe("order.created", SendEmailHandler())
    registry.subscribe("order.created", UpdateInventoryHandler())
    other.subscribe("*", orders)
    consume(registry)
    consume(other, "orders-only", "order.*", queue_config=QueueConfig(durable=False, auto_delete=True), prefetch_count=10)
    publisher = EventPublisher(connect(), "events", confirm=True)
    sent = [
        OrderCreatedEvent(data={"order_id": "1", "customer_email": "c@example.com", "items": [{"product_id": "P", "quantity": 2}]}),
        OrderPaidEvent(data={"order_id": "1"}),
        UserRegisteredEvent(data={"user_id": "ü"}),
    ]
    for event in sent:
        publisher.publish(event)
    every.wait(3)
    orders.wait(2)
    hub.wait_idle()
    assert [each.to_dict() for each in every.items] == [each.to_dict() for each in sent]
    assert [each.action for each in orders.items] == ["created", "paid"]


def test_events_wait_for_a_consumer_that_is_not_there(hub, connect, consume):
    connection = connect()
    EventSubscriber(connection, "later", HandlerRegistry(), "events").setup_queue()
    publisher = EventPublisher(connection, "events", confirm=True)
    publisher.publish(Event("a", "b"))
    connection.close()
    hub.kill()
    hub.start()
    seen, registry = Seen(), HandlerRegistry()
    registry.subscribe("a.[bc]", seen)
    registry.subscribe("a.?", seen)
    consume(registry, "later")
    seen.wait(2)
    hub.wait_idle()


def test_a_handler_that_fails_leaves_others_alone_and_makes_a_dead_letter(hub, connect, consume):
    seen, registry = Seen(), HandlerRegistry()
    registry.subscribe("order.*", Broken())
    registry.subscribe("*", seen)
    consume(registry)
    connection = connect()
    publisher = EventPublisher(connection, "events", confirm=True)
    publisher.publish(OrderPaidEvent(data={}))
    publisher.publish(UserRegisteredEvent(data={}))
    connection.channel.basic_publish("events", "not.json", b"{")
    seen.wait(2)
    hub.wait_idle()
    letters = ask(hub.address, {"token": "dlq", "op": "list", "service": "my-service-queue"}, PATIENCE)["letters"]
    assert {each["subject"] for each in letters} == {"order.paid", "not.json"}


async def _invoke(registry, event):
    return await registry.invoke(event)


def test_the_registry():
    import asyncio

    registry, seen = HandlerRegistry(), Seen()
    registry.subscribe("a.*", seen)
    registry.subscribe("a.b", Broken())
    assert len(registry.get_handlers("a.b")) == 2 and registry.get_handlers("b.a") == []
    with pytest.raises(HandlersFailed, match="Broken: RuntimeError: no b") as error:
        asyncio.run(_invoke(registry, Event("a", "b")))
    assert len(error.value.errors) == 1 and len(seen.items) == 1
    broken = registry.get_handlers("a.b")[1]
    assert registry.unsubscribe("a.b", broken) and not registry.unsubscribe("a.b", broken)
    assert asyncio.run(_invoke(registry, Event("a", "b"))) == 1
    registry.clear()
    assert registry.get_handlers("a.b") == []


def test_what_cannot_be_is_refused_with_typed_errors(hub, connect):
    publisher = EventPublisher(connect(), "events")
    with pytest.raises(em.InvalidArgument, match="JSON"):
        publisher.publish(Event("test", "test", {"time": datetime.datetime.now()}))
    for wrong in (b"{", b"[]", b"{}", b'{"domain": 1, "action": "b"}', b'{"domain": "a", "action": "b", "data": 1}', b"\xff"):
        with pytest.raises(em.DecodeError):
            EventSerializer.deserialize(wrong)
    assert EventSerializer.deserialize(b'{"domain": "a", "action": "b", "newer": 1}').get_routing_key() == "a.b"
    with pytest.raises(em.InvalidArgument):
        HandlerRegistry().subscribe("a", object())
    with pytest.raises(em.InvalidArgument):
        HandlerRegistry().subscribe("", Broken())
    with pytest.raises(ConnectionWrongStateError):
        AMQPConnection().channel


def test_no_daemon(monkeypatch):
    monkeypatch.delenv("EVENT_MANAGER_CLIENT_ADDRESS", raising=False)
    with pytest.raises(AMQPConnectionError):
        AMQPConnection(AMQPConfig(host="127.0.0.1", port=1, connection_attempts=1)).connect()
