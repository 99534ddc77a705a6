"""Consumes events of a queue."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from typing import Any, Dict, Optional

from ...errors import DecodeError
from .. import pika
from .amqp_connection import AMQPConnection
from .event_base import EventSerializer
from .handler_registry import HandlerRegistry, HandlersFailed

log = logging.getLogger("pubsub.subscriber")


@dataclasses.dataclass
class QueueConfig:
    """How a queue is kept. A durable one needs the daemon's `stateDir`."""

    durable: bool = True
    exclusive: bool = False
    auto_delete: bool = False
    arguments: Optional[Dict[str, Any]] = None


class EventSubscriber:
    """Takes events from a queue, and gives them to their handlers: ACK if all succeed, else the event is rejected."""

    def __init__(
        self,
        connection: AMQPConnection,
        queue_name: str,
        handler_registry: HandlerRegistry,
        exchange_name: str,
        queue_config: Optional[QueueConfig] = None,
        prefetch_count: int = 1,
        serializer: Optional[EventSerializer] = None,
    ) -> None:
        self.connection = connection
        self.queue_name = queue_name
        self.handler_registry = handler_registry
        self.exchange_name = exchange_name
        self.queue_config = queue_config or QueueConfig()
        self.prefetch_count = prefetch_count
        self.serializer = serializer or EventSerializer()
        self._channel: Optional[pika.BlockingChannel] = None

    def setup_queue(self, routing_key: str = "#") -> None:
        """Declares the queue, and binds it. From then on it gets events, also while nobody consumes."""
        config = self.queue_config
        self.queue_name = self.connection.declare_queue(
            self.queue_name, config.durable, config.exclusive, config.auto_delete, config.arguments
        )
        self.connection.bind_queue(self.queue_name, self.exchange_name, routing_key)

    def start_consuming(self) -> None:
        """Runs handlers until `stop_consuming`, or the connection is closed."""
        channel = self._channel = self.connection.connection.channel()
        loop = asyncio.new_event_loop()
        try:
            channel.basic_qos(prefetch_count=self.prefetch_count)
            channel.basic_consume(self.queue_name, lambda channel, method, _, body: self._came(loop, channel, method, body))
            channel.start_consuming()
        finally:
            self._channel = None
            loop.close()
            if channel.is_open:
                channel.close()

    def stop_consuming(self) -> None:
        """Lets `start_consuming` return, when a running handler is done. Any thread may call it."""
        if self._channel is not None and self._channel.is_open:
            self._channel.stop_consuming()

    def _came(self, loop: asyncio.AbstractEventLoop, channel: pika.BlockingChannel, method: Any, body: bytes) -> None:
        try:
            event = self.serializer.deserialize(body)
            count = loop.run_until_complete(self.handler_registry.invoke(event))
        except (HandlersFailed, DecodeError) as error:
            log.error("%s is rejected: %s", method.routing_key, error)
            done = False
        else:
            log.debug("%s: %d handlers", method.routing_key, count)
            done = True
        if channel.is_closed:
            return  # The event comes again, to others.
        if done:
            channel.basic_ack(delivery_tag=method.delivery_tag)
        else:
            channel.basic_nack(delivery_tag=method.delivery_tag, requeue=False)
