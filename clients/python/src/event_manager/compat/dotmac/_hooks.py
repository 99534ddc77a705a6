"""What is called when events are published, consumed, tried again, given up."""

from __future__ import annotations

import logging
import threading
from typing import Any, Dict, Optional

from ...errors import InvalidArgument
from ._event import Event

log = logging.getLogger("event_manager")


class ObservabilityHooks:
    """Counts events and their durations, by the names that dotmac has. `counts` has the counters."""

    def __init__(self, logged: bool = False) -> None:
        self._logged = logged
        self._lock = threading.Lock()
        self.counts: Dict[str, int] = {}
        self.seconds: Dict[str, float] = {}

    def count(self, name: str, event: Event, labels: Dict[str, str]) -> None:
        """Counts one."""
        with self._lock:
            self.counts[name] = self.counts.get(name, 0) + 1
        if self._logged:
            log.info("%s %s %s", name, event.topic, labels)

    def observe(self, name: str, event: Event, seconds: float, labels: Dict[str, str]) -> None:
        """Adds a duration."""
        with self._lock:
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def on_publish(self, event: Event, seconds: float) -> None:
        """An event was published."""
        labels = {"topic": event.topic}
        self.count("events_published_total", event, labels)
        self.observe("event_publish_duration_seconds", event, seconds, labels)

    def on_consume(self, event: Event, group: str, seconds: float, error: Optional[BaseException] = None) -> None:
        """A handler is done, or raised."""
        labels = {"topic": event.topic, "group": group, "status": "success" if error is None else "error"}
        self.count("events_consumed_total", event, labels)
        self.observe("event_consume_duration_seconds", event, seconds, labels)

    def on_retry(self, event: Event, retry_count: int, error: BaseException) -> None:
        """An event is tried again."""
        self.count("events_retried_total", event, {"topic": event.topic})

    def on_dlq(self, event: Event, error: BaseException) -> None:
        """An event is given up."""
        self.count("events_dlq_total", event, {"topic": event.topic})


class _Registry(ObservabilityHooks):
    def __init__(self, registry: Any, tenants: Any) -> None:
        super().__init__()
        self._registry = registry
        self._tenants = tenants

    def count(self, name: str, event: Event, labels: Dict[str, str]) -> None:
        super().count(name, event, labels)
        self._registry.increment_counter(name, 1, labels)
        if self._tenants is not None and event.tenant_id is not None:
            self._tenants.increment_counter(name, 1, {**labels, "tenant_id": event.tenant_id})

    def observe(self, name: str, event: Event, seconds: float, labels: Dict[str, str]) -> None:
        super().observe(name, event, seconds, labels)
        self._registry.observe_histogram(name, seconds, labels)


def create_default_hooks() -> ObservabilityHooks:
    """Hooks that count, and log."""
    return ObservabilityHooks(logged=True)


def create_dotmac_observability_hooks(metrics_registry: Any, tenant_metrics: Any = None) -> ObservabilityHooks:
    """Hooks that tell a registry, by `increment_counter(name, 1, labels)` and `observe_histogram(name, seconds, labels)`."""
    for name in ("increment_counter", "observe_histogram"):
        if not callable(getattr(metrics_registry, name, None)):
            raise InvalidArgument(f"{metrics_registry!r} has no {name}")
    has = callable(getattr(tenant_metrics, "increment_counter", None))
    return _Registry(metrics_registry, tenant_metrics if has else None)
