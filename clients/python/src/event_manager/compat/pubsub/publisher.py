"""Publishes events to an exchange."""

from __future__ import annotations

from typing import Optional

from .. import pika
from .amqp_connection import AMQPConnection
from .event_base import Event, EventSerializer


class EventPublisher:
    """Publishes events under `domain.action`. With `confirm` each waits until the daemon has it, on disk if a durable queue
    is bound to it; without, closing the connection tells whether something may be lost."""

    def __init__(
        self, connection: AMQPConnection, exchange_name: str, serializer: Optional[EventSerializer] = None, *, confirm: bool = False
    ) -> None:
        self.connection = connection
        self.exchange_name = exchange_name
        self.serializer = serializer or EventSerializer()
        self._confirm = confirm

    def publish(self, event: Event, routing_key: Optional[str] = None) -> None:
        """Publishes an event. InvalidArgument if its data can't be written as JSON."""
        body = self.serializer.serialize(event)
        properties = pika.BasicProperties(
            content_type="application/json", delivery_mode=pika.DeliveryMode.Persistent, message_id=event.event_id, type=event.get_routing_key()
        )
        channel = self.connection.channel
        if self._confirm:
            channel.confirm_delivery()
        channel.basic_publish(self.exchange_name, routing_key or event.get_routing_key(), body, properties)
