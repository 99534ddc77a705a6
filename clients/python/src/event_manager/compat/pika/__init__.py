"""pika's BlockingConnection, on this daemon: code of RabbitMQ's tutorials and of its building blocks runs as it is.

    import event_manager.compat.pika as pika

    connection = pika.BlockingConnection(pika.ConnectionParameters("localhost"))
    channel = connection.channel()
    channel.queue_declare("orders", durable=True)
    channel.basic_publish("", "orders", b"hello")

| RabbitMQ | Here |
|---|---|
| routing key | the subject; the exchange's name if the key is empty |
| exchange | a header; a consumer gets what was published to the exchanges to which its queue is bound |
| queue | a service; each queue has its own name as a subject, as in the default exchange |
| durable queue | a durable service, which needs the daemon's `stateDir`; events wait there for a consumer |
| binding `order.*`, `order.#`, `#` | `glob:order.*`; `exact:order` and `glob:order.**`; everything |
| prefetch | credit, at most 1000 (0 is 1000) |
| `basic_ack` | ACK |
| `basic_nack(requeue=True)`, a consumer that goes | NAK: it comes again at once |
| `basic_nack(requeue=False)`, `basic_reject(requeue=False)` | TERM: a dead letter, which `event-manager dlq` lists. RabbitMQ loses it, unless there is `x-dead-letter-exchange`: then it is published there, as in RabbitMQ |
| `confirm_delivery`, persistent | EMIT of level `disk` |
| properties, headers | the event's headers |

Bindings stay with the queue in the daemon, as in RabbitMQ; also those of other processes count.

What is not possible, and why:

- Transient queues end a minute after the last connection that declared or consumed them: the daemon has leases, not
  brokers' lifetimes.
- An event that was requeued a million times becomes a dead letter; if the daemon's configuration names the queue with
  `retry.maxDeliveries`, after as many times.
- Exchanges of type `headers`, and exchanges bound to exchanges: subjects are all that the daemon looks at.
- Queues' `x-message-ttl`, `x-max-length`, `x-max-priority` and others: the daemon's configuration has `services` for that.
  They are accepted with a warning. `x-dead-letter-exchange` is known to processes that declare the queue with it.
- Words of a binding pattern may be `*` and `#` only, as in RabbitMQ, where `#` in the middle, or several of them, are read as
  one or more words.
- SelectConnection and the adapters of other loops: use BlockingConnection, or the client's own `event_manager.aio`.
- Dead letters are events of the subject `<queue>.DLQ` here. Bindings with `*` or `#` don't get them; a binding to that name does.
- Transactions (`tx_select`), and users and virtual hosts: credentials are accepted and not looked at.
"""

from __future__ import annotations

from . import connection, exceptions, spec
from .adapters import BlockingChannel, BlockingConnection
from .connection import ConnectionParameters, ExternalCredentials, PlainCredentials, URLParameters
from .spec import BasicProperties, DeliveryMode

__all__ = [
    "BasicProperties",
    "BlockingChannel",
    "BlockingConnection",
    "ConnectionParameters",
    "DeliveryMode",
    "ExternalCredentials",
    "PlainCredentials",
    "URLParameters",
    "connection",
    "exceptions",
    "spec",
]
