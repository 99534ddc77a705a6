"""Spans for OpenTelemetry, as FastStream's other brokers have them. The context is in the header `traceparent`, so the daemon's own
spans are in the same trace (`traces.traceparent`: `header:2`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from event_manager import Event
from faststream.opentelemetry import TelemetrySettingsProvider
from faststream.opentelemetry.consts import MESSAGING_DESTINATION_PUBLISH_NAME
from faststream.opentelemetry.middleware import TelemetryMiddleware
from opentelemetry.semconv.trace import SpanAttributes

from .response import EventManagerPublishCommand

if TYPE_CHECKING:
    from faststream.message import StreamMessage
    from opentelemetry.metrics import Meter, MeterProvider
    from opentelemetry.trace import TracerProvider


class EventManagerTelemetrySettingsProvider(TelemetrySettingsProvider["Event[bytes]", EventManagerPublishCommand]):
    """What the spans say of an event."""

    def __init__(self) -> None:
        self.messaging_system = "event-manager"

    def get_consume_attrs_from_message(self, msg: StreamMessage[Event[bytes]]) -> dict[str, Any]:
        return {
            SpanAttributes.MESSAGING_SYSTEM: self.messaging_system,
            SpanAttributes.MESSAGING_MESSAGE_ID: msg.message_id,
            SpanAttributes.MESSAGING_MESSAGE_CONVERSATION_ID: msg.correlation_id,
            SpanAttributes.MESSAGING_MESSAGE_PAYLOAD_SIZE_BYTES: len(msg.body),
            MESSAGING_DESTINATION_PUBLISH_NAME: msg.raw_message.subject,
        }

    def get_consume_destination_name(self, msg: StreamMessage[Event[bytes]]) -> str:
        return msg.raw_message.subject

    def get_publish_attrs_from_cmd(self, cmd: EventManagerPublishCommand) -> dict[str, Any]:
        return {
            SpanAttributes.MESSAGING_SYSTEM: self.messaging_system,
            SpanAttributes.MESSAGING_DESTINATION_NAME: cmd.destination,
            SpanAttributes.MESSAGING_MESSAGE_CONVERSATION_ID: cmd.correlation_id,
        }

    def get_publish_destination_name(self, cmd: EventManagerPublishCommand) -> str:
        return cmd.destination


class EventManagerTelemetryMiddleware(TelemetryMiddleware[EventManagerPublishCommand]):
    """Makes spans of what is published and consumed."""

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        meter: Meter | None = None,
        include_messages_counters: bool = True,
    ) -> None:
        super().__init__(
            settings_provider_factory=lambda _: EventManagerTelemetrySettingsProvider(),
            tracer_provider=tracer_provider,
            meter_provider=meter_provider,
            meter=meter,
            include_messages_counters=include_messages_counters,
        )


__all__ = ["EventManagerTelemetryMiddleware", "EventManagerTelemetrySettingsProvider"]
