"""The event-driven pub/sub building blocks for RabbitMQ (`pubsub.*`), on this daemon.

    from event_manager.compat.pubsub.amqp_connection import AMQPConfig, AMQPConnection
    from event_manager.compat.pubsub.publisher import EventPublisher

Who has a copy of the original may leave it as it is and exchange pika below it: `python -m event_manager.compat --as pika`.
This package is for who has none. It is on `event_manager.compat.pika`, whose table says what queues and exchanges are here.

All of its README holds: events, handlers, patterns of fnmatch, queues with prefetch, acknowledgement if all handlers succeed.
What differs:

- If a handler fails, the others run, and the event is rejected: it becomes a dead letter that `event-manager dlq` lists and
  replays. RabbitMQ loses it, unless the queue has `x-dead-letter-exchange`, which works here, too.
- One connection may be used by several threads.
- The management UI on port 15672 is the daemon's dashboard (`httpAddress`).
- `EventBus`, `application` and `rpc` of later versions are not part of it; with `--as pika` theirs run.
"""

from __future__ import annotations

from . import amqp_connection, event_base, events, handler_registry, handlers, publisher, subscriber

__all__ = ["amqp_connection", "event_base", "events", "handler_registry", "handlers", "publisher", "subscriber"]
