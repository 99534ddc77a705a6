"""pika's BlockingConnection on the real daemon."""

import subprocess
import sys
import threading
import uuid

import pytest

import event_manager as em
import event_manager.compat.pika as pika
from event_manager._ask import ask
from event_manager.compat.pika.bindings import matches, patterns_of
from event_manager.testing import TestHub

PATIENCE = 60.0


@pytest.fixture
def connect(hub, monkeypatch):
    monkeypatch.setenv("EVENT_MANAGER_CLIENT_ADDRESS", hub.address)
    made = []

    def connect():
        made.append(pika.BlockingConnection(pika.ConnectionParameters("localhost", stack_timeout=PATIENCE)))
        return made[-1]

    yield connect
    for each in made:
        if each.is_open:
            each.close()


def take(channel, queue, count, **more):
    """Consumes some messages, and acknowledges them."""
    got = []

    def callback(channel, method, properties, body):
        got.append((method.routing_key, body))
        channel.basic_ack(delivery_tag=method.delivery_tag)
        if len(got) == count:
            channel.stop_consuming()

    channel.basic_consume(queue=queue, on_message_callback=callback, **more)
    channel.start_consuming()
    return got


def test_the_tutorial_s_programs_run_unmodified(hub, tmp_path):
    (tmp_path / "new_task.py").write_text(
        """import pika
import sys

connection = pika.BlockingConnection(
    pika.ConnectionParameters(host='localhost'))
channel = connection.channel()

channel.queue_declare(queue='task_queue', durable=True)

message = ' '.join(sys.argv[1:]) or "Hello World!"
channel.basic_publish(
    exchange='',
    routing_key='task_queue',
    body=message,
    properties=pika.BasicProperties(
        delivery_mode=pika.DeliveryMode.Persistent
    ))
print(f" [x] Sent {message}")
connection.close()
"""
    )
    (tmp_path / "worker.py").write_text(
        """import pika
from pika.exceptions import AMQPConnectionError

connection = pika.BlockingConnection(
    pika.ConnectionParameters(host='localhost'))
channel = connection.channel()

channel.queue_declare(queue='task_queue', durable=True)

def callback(ch, method, properties, body):
    print(f" [x] Received {body.decode()} {properties.delivery_mode}")
    ch.basic_ack(delivery_tag=method.delivery_tag)
    if body == b"stop":
        ch.stop_consuming()

channel.basic_qos(prefetch_count=1)
channel.basic_consume(queue='task_queue', on_message_callback=callback)
channel.start_consuming()
connection.close()
"""
    )

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "event_manager.compat", "--as", "pika", "--replace", *arguments],
            cwd=tmp_path, env={"EVENT_MANAGER_CLIENT_ADDRESS": hub.address}, capture_output=True, text=True, timeout=PATIENCE,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert run("new_task.py", "first", "message") == " [x] Sent first message\n"
    run("new_task.py", "stop")
    assert run("worker.py") == " [x] Received first message 2\n [x] Received stop 2\n"


def test_bindings_of_topic_exchanges(hub, connect):
    publisher, consumer = connect().channel(), connect().channel()
    for each in (publisher, consumer):
        each.exchange_declare("logs", exchange_type="topic", durable=True)
    consumer.queue_declare("all", durable=True)
    consumer.queue_bind("all", "logs", "#")
    consumer.queue_declare("some", durable=True)
    consumer.queue_bind("some", "logs", "order.#")
    consumer.queue_bind("some", "logs", "*.critical")
    consumer.queue_declare("elsewhere")
    consumer.exchange_declare("other", exchange_type="topic")
    consumer.queue_bind("elsewhere", "other", "#")
    for key in ("order", "order.created", "order.created.eu", "user", "user.critical", "orders"):
        publisher.basic_publish("logs", key, key)
    publisher.basic_publish("other", "last", b"x")
    publisher.connection._hub.flush()
    assert [key for key, _ in take(consumer, "some", 4)] == ["order", "order.created", "order.created.eu", "user.critical"]
    assert take(consumer, "elsewhere", 1) == [("last", b"x")]
    assert len(take(consumer, "all", 6)) == 6


def test_fanout_and_direct_exchanges(hub, connect):
    channel = connect().channel()
    channel.exchange_declare(exchange="news", exchange_type="fanout")
    channel.exchange_declare(exchange="levels", exchange_type="direct")
    names = [channel.queue_declare(queue="", exclusive=True).method.queue for _ in range(3)]
    assert len(set(names)) == 3
    for name in names[:2]:
        channel.queue_bind(exchange="news", queue=name)
    for level in ("error", "warning"):
        channel.queue_bind(exchange="levels", queue=names[2], routing_key=level)
    channel.basic_publish(exchange="levels", routing_key="info", body=b"i")
    channel.basic_publish(exchange="levels", routing_key="error", body=b"e")
    channel.basic_publish(exchange="levels", routing_key="warning", body=b"w")
    channel.basic_publish(exchange="news", routing_key="", body=b"n")
    for name in names[:2]:
        assert [body for _, body in take(channel, name, 1)] == [b"n"]
    assert take(channel, names[2], 2) == [("error", b"e"), ("warning", b"w")]
    channel.connection.close()
    assert hub.status()["services"] == []


def test_patterns_mean_what_rabbitmq_means():
    subjects = ["a", "b", "a.b", "a.x.b", "a.x.y.b", "a.x", "x.b", "x.a.b"]
    for binding in ("#", "a", "a.#", "#.b", "a.#.b", "*.b", "a.*", "a.*.#", "#.a.#", "#.#"):
        globs = patterns_of(binding, "topic")
        for subject in subjects:
            found = any(
                em._patterns.matcher(text, dialect)(subject)
                for dialect, _, text in (each.partition(":") if each else ("prefix", "", "") for each in globs)
            )
            assert bool(found) == matches(binding, subject, "topic"), (binding, subject, globs)
    with pytest.raises(pika.exceptions.ChannelClosedByBroker):
        patterns_of("#.a.#.b.#.c.#", "topic")


def test_what_is_not_acknowledged_comes_again(hub, connect):
    first, second = connect(), connect()
    channel = first.channel()
    channel.queue_declare("q", durable=True)
    for number in range(3):
        channel.basic_publish("", "q", b"%d" % number)
    got = []
    channel.basic_qos(prefetch_count=2)
    channel.basic_consume("q", lambda channel, method, properties, body: got.append((method, body)))
    while len(got) < 2:
        first.process_data_events(time_limit=PATIENCE)
    assert not any(method.redelivered for method, _ in got)
    channel.basic_nack(got[0][0].delivery_tag)  # At once again, marked.
    while len(got) < 3:
        first.process_data_events(time_limit=PATIENCE)
    first.close()  # It has two that are not answered.
    assert sorted(body for _, body in take(second.channel(), "q", 3)) == [b"0", b"1", b"2"]
    hub.wait_idle()


def test_rejected_messages_are_dead_letters(hub, connect):
    channel = connect().channel()
    channel.queue_declare("q", durable=True)
    channel.basic_publish("", "q", b"bad")
    channel.basic_publish("", "q", b"good")
    for body in (b"bad", b"good"):
        method, _, got = channel.basic_get("q")
        assert got == body
        if body == b"bad":
            channel.basic_reject(method.delivery_tag, requeue=False)
        else:
            channel.basic_ack(method.delivery_tag)
    assert channel.basic_get("q") == (None, None, None)
    hub.wait_idle()
    [letter] = ask(hub.address, {"token": "dlq", "op": "list", "service": "q"}, PATIENCE)["letters"]
    assert (letter["subject"], letter["attempts"]) == ("q", 1)


def test_dead_letter_exchanges(hub, connect):
    channel = connect().channel()
    channel.exchange_declare("dlx", exchange_type="direct")
    channel.queue_declare("failed", durable=True)
    channel.queue_bind("failed", "dlx", "orders")
    arguments = {"x-dead-letter-exchange": "dlx", "x-dead-letter-routing-key": "orders"}
    channel.queue_declare("q", durable=True, arguments=arguments)
    channel.basic_publish("", "q", b"bad", pika.BasicProperties(headers={"n": 1}))
    method, _, _ = channel.basic_get("q")
    channel.basic_nack(method.delivery_tag, requeue=False)
    method, properties, body = channel.basic_get("failed", auto_ack=True)
    assert (method.exchange, method.routing_key, body) == ("dlx", "orders", b"bad")
    assert properties.headers["n"] == 1 and properties.headers["x-death"][0]["queue"] == "q"


def test_properties_come_as_they_were_sent(hub, connect):
    channel = connect().channel()
    channel.queue_declare("q")
    sent = pika.BasicProperties(
        "application/json", "gzip", {"a": [1, None, {"b": "ü"}]}, 2, 5, "corr", "back", "60000", "m1", 1700000000, "t", "u", "app", "c"
    )
    channel.basic_publish("", "q", "ünï", sent)
    method, properties, body = channel.basic_get("q", auto_ack=True)
    assert (properties, body.decode(), method.exchange) == (sent, "ünï", "")
    with em.connect(hub.address) as other:  # Somebody who isn't pika.
        other.emit("q", b"x", headers={"x-from": "me", "x-priority": "high"})
    _, properties, _ = channel.basic_get("q", auto_ack=True)
    assert properties.headers == {"x-from": "me", "x-priority": "high"}


def test_calls_with_reply_to(hub, connect):
    server = connect()
    channel = server.channel()
    channel.queue_declare(queue="rpc_queue")

    def on_request(ch, method, props, body):
        reply = str(int(body) * 2)
        ch.basic_publish("", props.reply_to, reply, pika.BasicProperties(correlation_id=props.correlation_id))
        ch.basic_ack(delivery_tag=method.delivery_tag)

    channel.basic_consume(queue="rpc_queue", on_message_callback=on_request)
    thread = threading.Thread(target=channel.start_consuming)
    thread.start()
    client = connect()
    calls = client.channel()
    callback_queue = calls.queue_declare(queue="", exclusive=True).method.queue
    answers = {}
    calls.basic_consume(callback_queue, lambda ch, method, props, body: answers.update({props.correlation_id: body}), auto_ack=True)
    for number in range(20):
        correlation = str(uuid.uuid4())
        calls.basic_publish("", "rpc_queue", str(number), pika.BasicProperties(reply_to=callback_queue, correlation_id=correlation))
        while correlation not in answers:
            client.process_data_events(time_limit=None)
        assert answers[correlation] == str(number * 2).encode()
    server.add_callback_threadsafe(channel.stop_consuming)
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_closing_a_connection_ends_consuming_in_another_thread(hub, connect):
    connection = connect()
    channel = connection.channel()
    channel.queue_declare("q")
    channel.basic_consume("q", lambda *_: None)
    thread = threading.Thread(target=channel.start_consuming)
    thread.start()
    connection.close()
    thread.join(PATIENCE)
    assert not thread.is_alive() and connection.is_closed and channel.is_closed
    with pytest.raises(pika.exceptions.ConnectionWrongStateError):
        connection.close()
    with pytest.raises(pika.exceptions.ConnectionWrongStateError):
        channel.basic_publish("", "q", b"")


def test_confirms(hub, connect):
    channel = connect().channel()
    channel.confirm_delivery()
    with pytest.raises(pika.exceptions.UnroutableError):
        channel.basic_publish("", "nobody", b"x", mandatory=True)
    channel.basic_publish("", "nobody", b"x")
    channel.queue_declare("q", durable=True)
    channel.basic_publish("", "q", b"x", pika.BasicProperties(delivery_mode=2), mandatory=True)
    hub.kill()
    hub.start()
    assert channel.basic_get("q", auto_ack=True)[2] == b"x"


def test_generators_timers_and_purging(hub, connect):
    connection = connect()
    channel = connection.channel()
    channel.queue_declare("q")
    for number in range(6):
        channel.basic_publish("", "q", str(number))
    seen = []
    for method, _, body in channel.consume("q", inactivity_timeout=0.05):
        if method is None:
            if len(seen) < 4:
                continue
            break
        seen.append(body)
        channel.basic_ack(method.delivery_tag)
        if len(seen) == 4:
            channel.cancel()
    assert seen == [b"0", b"1", b"2", b"3"]
    assert channel.queue_purge("q").method.message_count == 2
    called = []
    connection.call_later(0.02, lambda: called.append(1))
    connection.remove_timeout(connection.call_later(0.01, lambda: called.append(2)))
    while not called:
        connection.process_data_events(time_limit=1)
    connection.sleep(0.01)
    assert called == [1]


def test_queues_are_unbound_and_deleted(hub, connect):
    channel = connect().channel()
    channel.exchange_declare("e", "topic")
    channel.queue_declare("q", durable=True)
    channel.queue_bind("q", "e", "a.#")
    channel.queue_bind("q", "e", "a")
    assert channel.queue_declare("q", passive=True).method.queue == "q"
    # Another process declares it again: what it is bound to stays.
    connect().channel().queue_declare("q", durable=True)
    assert set(hub.status()["services"][0]["subjects"]) == {"exact:q", "exact:a", "glob:a.**"}
    channel.queue_unbind("q", "e", "a.#")
    assert set(hub.status()["services"][0]["subjects"]) == {"exact:q", "exact:a"}
    channel.basic_publish("e", "a", b"")
    channel.connection._hub.flush()
    assert channel.queue_delete("q").method.message_count == 1
    assert hub.status()["services"] == []


def test_what_cannot_be_is_refused_with_typed_errors(hub, connect):
    connection = connect()

    def refused(code, call):
        channel = connection.channel()
        with pytest.raises(pika.exceptions.ChannelClosedByBroker) as error:
            call(channel)
        assert error.value.reply_code == code and isinstance(error.value, em.EventManagerError)
        assert channel.is_closed
        with pytest.raises(pika.exceptions.ChannelWrongStateError):
            channel.basic_get("q")

    refused(404, lambda channel: channel.queue_declare("none", passive=True))
    refused(404, lambda channel: channel.basic_consume("none", lambda *_: None))
    refused(404, lambda channel: channel.basic_get("none"))
    refused(404, lambda channel: channel.exchange_declare("none", passive=True))
    refused(540, lambda channel: channel.exchange_declare("h", "headers"))
    refused(406, lambda channel: channel.basic_ack(77))
    connection.channel().queue_declare("q")
    refused(406, lambda channel: channel.queue_declare("q", durable=True))
    channel = connection.channel()
    channel.basic_consume("q", lambda *_: None, consumer_tag="t")
    with pytest.raises(pika.exceptions.DuplicateConsumerTag):
        channel.basic_consume("q", lambda *_: None, consumer_tag="t")
    with pytest.raises(em.InvalidArgument):
        channel.basic_publish("", "", b"")
    with pytest.raises(em.InvalidArgument):
        channel.basic_publish("", "q", b"", pika.BasicProperties(headers={"a": object()}))
    for wrong in ("http://x", "amqp://host:port"):
        with pytest.raises(em.InvalidArgument):
            pika.URLParameters(wrong)
    with pytest.raises(em.InvalidArgument):
        pika.ConnectionParameters(port="x")


def test_without_a_state_directory_durable_queues_are_refused(monkeypatch):
    with TestHub() as daemon:
        monkeypatch.setenv("EVENT_MANAGER_CLIENT_ADDRESS", daemon.address)
        with pika.BlockingConnection() as connection:
            with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="stateDir"):
                connection.channel().queue_declare("q", durable=True)


def test_parameters(monkeypatch):
    monkeypatch.delenv("EVENT_MANAGER_CLIENT_ADDRESS", raising=False)
    found = pika.URLParameters("amqp://me:pass%21@broker:5672/%2F?heartbeat=600&connection_attempts=2&retry_delay=0")
    assert (found.address, found.credentials.password, found.virtual_host) == ("tcp://broker:5101", "pass!", "/")
    assert (found.connection_attempts, found.heartbeat) == (2, 600)
    assert pika.ConnectionParameters("h", 7000).address == "tcp://h:7000"
    with pytest.raises(pika.exceptions.AMQPConnectionError):
        pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", 1, connection_attempts=2, retry_delay=0, stack_timeout=0.1))
