"""What the tests want of NATS, by nats-py: `nats_client.py URL COMMAND …` prints JSON."""

import asyncio
import json
import ssl
import sys

import nats
from nats.js.api import StreamConfig


async def create(js, name, subjects, max_msg_size="-1"):
    config = StreamConfig(name=name, subjects=subjects.split(","), max_msg_size=int(max_msg_size))
    await js.add_stream(config)
    return name


async def bound(js, name, key, value):
    """The stream takes no more than that."""
    config = (await js.stream_info(name)).config
    await js.update_stream(config.evolve(discard="new", **{key: int(value)}))
    return name


async def count(js, name):
    return (await js.stream_info(name)).state.messages


async def write(js, begin, end, subject, headers="{}", body_bytes="0"):
    """Messages whose bodies are numbers, in their order, and as many spaces as make so many bytes."""
    for number in range(int(begin), int(end)):
        await js.publish(subject, str(number).ljust(int(body_bytes)).encode(), headers=json.loads(headers) or None)
    return int(end) - int(begin)


async def left(js, name, consumer):
    """How many messages the consumer has not acknowledged, given or not."""
    info = await js.consumer_info(name, consumer)
    return info.num_pending + info.num_ack_pending


async def forget(js, name, consumer):
    """The stream forgets what the consumer has had."""
    return await js.delete_consumer(name, consumer)


async def read(js, name, wanted):
    """All messages of a stream in its order, once it has so many."""
    while await count(js, name) < int(wanted):
        await asyncio.sleep(0.05)
    subscription = await js.subscribe("", stream=name, ordered_consumer=True)
    messages = []
    for _ in range(await count(js, name)):
        message = await subscription.next_msg(timeout=10)
        messages.append(
            {
                "subject": message.subject,
                "headers": {key.lower(): value for key, value in (message.headers or {}).items()},
                "body": message.data.decode("latin-1"),
            }
        )
    return messages


async def main(url, command, *arguments):
    # Whom it trusts is shown by the daemon; this one only looks.
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    options = {"tls": trusting} if url.startswith("tls:") else {}
    client = await nats.connect(url, connect_timeout=10, **options)
    commands = {
        "create": create,
        "bound": bound,
        "count": count,
        "read": read,
        "write": write,
        "left": left,
        "forget": forget,
    }
    print(json.dumps(await commands[command](client.jetstream(), *arguments)))
    await client.close()


asyncio.run(main(*sys.argv[1:]))
