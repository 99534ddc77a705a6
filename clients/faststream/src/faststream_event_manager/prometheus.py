"""Metrics for Prometheus, as FastStream's other brokers have them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from event_manager import Event
from faststream._internal.constants import EMPTY
from faststream.prometheus import ConsumeAttrs, MetricsSettingsProvider
from faststream.prometheus.middleware import PrometheusMiddleware

from .response import EventManagerPublishCommand

if TYPE_CHECKING:
    from faststream.message.message import StreamMessage
    from prometheus_client import CollectorRegistry


class EventManagerMetricsSettingsProvider(MetricsSettingsProvider["Event[bytes]", EventManagerPublishCommand]):
    """What the metrics say of an event."""

    def __init__(self) -> None:
        self.messaging_system = "event-manager"

    def get_consume_attrs_from_message(self, msg: StreamMessage[Event[bytes]]) -> ConsumeAttrs:
        return {"destination_name": msg.raw_message.subject, "message_size": len(msg.body), "messages_count": 1}

    def get_publish_destination_name_from_cmd(self, cmd: EventManagerPublishCommand) -> str:
        return cmd.destination


class EventManagerPrometheusMiddleware(PrometheusMiddleware["Event[bytes]", EventManagerPublishCommand]):
    """Counts and measures what is published and consumed."""

    def __init__(
        self,
        *,
        registry: CollectorRegistry,
        app_name: str = EMPTY,
        metrics_prefix: str = "faststream",
        received_messages_size_buckets: Sequence[float] | None = None,
        custom_labels: dict[str, str | Callable[[Any], str]] | None = None,
    ) -> None:
        super().__init__(
            settings_provider_factory=lambda _: EventManagerMetricsSettingsProvider(),
            registry=registry,
            app_name=app_name,
            metrics_prefix=metrics_prefix,
            received_messages_size_buckets=received_messages_size_buckets,
            custom_labels=custom_labels,
        )


__all__ = ["EventManagerMetricsSettingsProvider", "EventManagerPrometheusMiddleware"]
