"""Metrics for Prometheus, by the package prometheus-client (extra `prometheus`).

    hub = event_manager.connect(hooks=[event_manager.prometheus.Metrics()])
"""

from __future__ import annotations

import importlib
import threading
from typing import Any, Dict, Optional, Set

from ._event import Event
from .errors import Missing
from .hooks import Hooks

#: Subjects that have a label of their own; all others are "other", because each costs memory in Prometheus.
SUBJECTS_MAX = 100


class Metrics(Hooks):
    """Counts what is published and handled. One is enough for all hubs of a process: pass the same to each.

    `registry`: where the metrics go; default: prometheus_client's own. Names begin with `prefix`.
    """

    def __init__(self, registry: Optional[Any] = None, prefix: str = "event_manager_client") -> None:
        try:
            client = importlib.import_module("prometheus_client")
        except ImportError:
            raise Missing("prometheus-client", "prometheus", "event_manager.prometheus") from None
        to = client.REGISTRY if registry is None else registry
        self._lock = threading.Lock()
        self._subjects: Set[str] = set()
        self._published = client.Counter(f"{prefix}_published", "Events published and emitted.", ["subject"], registry=to)
        self._bytes = client.Counter(f"{prefix}_published_bytes", "Bytes of their bodies, before compression.", registry=to)
        self._seconds = client.Histogram(
            f"{prefix}_handling_seconds",
            "How long handlers took for an event, by service and outcome.",
            ["service", "outcome"],
            buckets=(0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30, 120, 600),
            registry=to,
        )
        self._retries = client.Counter(f"{prefix}_retries", "Events that are to be tried again.", ["service"], registry=to)
        self._letters = client.Counter(f"{prefix}_dead_letters", "Events that became dead letters here.", ["service"], registry=to)
        self._connections = client.Counter(f"{prefix}_connections", "Connections to a daemon that were made, or made again.", registry=to)

    def _label(self, subject: str) -> str:
        if subject in self._subjects:
            return subject
        with self._lock:
            if len(self._subjects) >= SUBJECTS_MAX:
                return "other"
            self._subjects.add(subject)
        return subject

    def on_publish(self, subject: str, body: bytes, headers: Dict[str, str]) -> None:
        self._published.labels(self._label(subject)).inc()
        self._bytes.inc(len(body))

    def on_done(self, service: str, event: "Event[Any]", seconds: float) -> None:
        self._seconds.labels(service, "done").observe(seconds)

    def on_error(self, service: str, event: "Event[Any]", error: BaseException, seconds: float) -> None:
        self._seconds.labels(service, "error").observe(seconds)

    def on_retry(self, service: str, event: "Event[Any]", delay: float) -> None:
        self._retries.labels(service).inc()

    def on_dead_letter(self, service: str, event: "Event[Any]", reason: str) -> None:
        self._letters.labels(service).inc()

    def on_state(self, connected: bool, why: str) -> None:
        if connected:
            self._connections.inc()


__all__ = ["SUBJECTS_MAX", "Metrics"]
