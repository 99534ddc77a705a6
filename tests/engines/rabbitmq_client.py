"""What the tests want of RabbitMQ, by pika: `rabbitmq_client.py URL COMMAND …` prints JSON."""

import json
import sys
import time

import pika
import pika.data
import pika.exceptions


def connected(url):
    """A server that is busy with its start ends connections whose greetings take too long."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return pika.BlockingConnection(pika.URLParameters(url))
        except pika.exceptions.AMQPConnectionError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def exchange(channel, name):
    channel.exchange_declare(name, exchange_type="topic", durable=True)


def queue(channel, name, more="{}"):
    channel.queue_declare(name, durable=True, arguments={"x-queue-type": "quorum", **json.loads(more)})


def bind(channel, name, of_exchange, key="#"):
    channel.queue_bind(name, of_exchange, routing_key=key)


def prepare(channel, of_exchange, *names):
    exchange(channel, of_exchange)
    for name in names:
        queue(channel, name)
        bind(channel, name, of_exchange)


def delete(channel, name):
    channel.queue_delete(name)


def purge(channel, name):
    channel.queue_purge(name)


def count(channel, name):
    return channel.queue_declare(name, passive=True).method.message_count


def wait_for_count(channel, name, wanted):
    """Ready and in hands, as far as the queue says it."""
    deadline = time.monotonic() + 30
    while count(channel, name) != int(wanted):
        assert time.monotonic() < deadline, (count(channel, name), wanted)
        time.sleep(0.05)


def read_out(channel, name, wanted):
    """The same, but they go: a channel has at most 65,535 that are not acknowledged."""
    return read(channel, name, wanted, stay=False)


def read(channel, name, wanted, stay=True):
    """All messages of a queue in its order, once it has so many. They stay there."""
    messages, ids = [], set()
    deadline = time.monotonic() + 60
    # Without it, a quorum queue gives 2000.
    channel.basic_qos(prefetch_count=65535)
    for method, properties, body in channel.consume(name, inactivity_timeout=0.3):
        if method is None:
            # Copies are there, too.
            if len(ids) >= int(wanted):
                break
            assert time.monotonic() < deadline, f"{len(messages)} of {wanted}"
            continue
        deadline = time.monotonic() + 60
        ids.add(properties.message_id or len(messages))
        if not stay and method.delivery_tag % 1000 == 0:
            channel.basic_ack(method.delivery_tag, multiple=True)
        messages.append(
            {
                "key": method.routing_key,
                "headers": {key.lower(): str(value) for key, value in (properties.headers or {}).items()},
                "body": body.decode("latin-1"),
                "message_id": properties.message_id,
                "delivery_mode": properties.delivery_mode,
            }
        )
    # What is not acknowledged comes back when the connection ends.
    return messages


def publish(channel, to, messages):
    """Messages are objects: `key` and `body`, and properties by pika's names."""
    channel.confirm_delivery()
    for message in json.loads(messages):
        key, body = message.pop("key"), message.pop("body")
        properties = pika.BasicProperties(delivery_mode=2, **message)
        channel.basic_publish(to, key, body.encode("latin-1"), properties, mandatory=True)


def give(channel, to, begin, end, headers, key="a.b", body_bytes="0"):
    """The numbers from `begin` on, each with an id, and as many spaces as make so many bytes."""
    channel.confirm_delivery()
    for number in range(int(begin), int(end)):
        properties = pika.BasicProperties(
            message_id=f"given-{number}", headers=json.loads(headers), delivery_mode=2
        )
        body = str(number).ljust(int(body_bytes)).encode()
        channel.basic_publish(to, key, body, properties, mandatory=True)


class Nested(str):
    """Lists within each other, so many."""


def nest(channel, to, depth):
    """A message that has such a header, whatever pika would say."""
    encode = pika.data.encode_value

    def encoded(pieces, value):
        if not isinstance(value, Nested):
            return encode(pieces, value)
        raw = b"V"
        for _ in range(int(depth)):
            raw = b"A" + len(raw).to_bytes(4, "big") + raw
        pieces.append(raw)
        return len(raw)

    pika.data.encode_value = encoded
    channel.confirm_delivery()
    properties = pika.BasicProperties(headers={"deep": Nested(), "flat": "text"}, message_id="nested")
    channel.basic_publish(to, "a.b", b"harmless", properties, mandatory=True)


url, wanted, *arguments = sys.argv[1:]
connection = connected(url)
commands = [
    exchange,
    queue,
    bind,
    prepare,
    delete,
    purge,
    count,
    wait_for_count,
    read,
    read_out,
    publish,
    give,
    nest,
]
command = {command.__name__: command for command in commands}[wanted]
print(json.dumps(command(connection.channel(), *arguments)))
connection.close()
