"""Spans for OpenTelemetry, by the package opentelemetry-api (extra `otel`).

    hub = event_manager.connect(hooks=[event_manager.otel.Tracing()])

The header `traceparent` carries the trace from who publishes to who handles.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any, Callable, Dict, Optional

from ._event import Event
from .errors import Missing
from .hooks import Hooks


class Tracing(Hooks):
    """Makes a span for each event that is published, and for each handler that runs; the second is a child of the first.

    `tracer_provider`: default: the global one.
    """

    def __init__(self, tracer_provider: Optional[Any] = None) -> None:
        try:
            self._trace = importlib.import_module("opentelemetry.trace")
            self._propagate = importlib.import_module("opentelemetry.propagate")
        except ImportError:
            raise Missing("opentelemetry-api", "otel", "event_manager.otel") from None
        self._tracer = self._trace.get_tracer("event_manager", tracer_provider=tracer_provider)
        self.middleware = self._around

    def on_publish(self, subject: str, body: bytes, headers: Dict[str, str]) -> None:
        attributes = {**_ATTRIBUTES, "messaging.operation.name": "publish", "messaging.destination.name": subject}
        attributes["messaging.message.body.size"] = len(body)
        span = self._tracer.start_span(f"publish {subject}", kind=self._trace.SpanKind.PRODUCER, attributes=attributes)
        self._propagate.inject(headers, context=self._trace.set_span_in_context(span))
        span.end()

    def _around(self, event: "Event[Any]", call_next: Callable[[], Any]) -> Any:
        attributes = {**_ATTRIBUTES, "messaging.operation.name": "process", "messaging.destination.name": event.subject}
        attributes["messaging.event_manager.attempt"] = event.attempt
        span = self._tracer.start_span(
            f"process {event.subject}",
            context=self._propagate.extract(event.headers),
            kind=self._trace.SpanKind.CONSUMER,
            attributes=attributes,
        )
        awaited = False
        try:
            with self._trace.use_span(span):
                result = call_next()
            awaited = inspect.isawaitable(result)
        finally:
            if not awaited:
                span.end()
        return self._await(span, result) if awaited else result

    async def _await(self, span: Any, result: Any) -> Any:
        with self._trace.use_span(span, end_on_exit=True):
            return await result


_ATTRIBUTES: Dict[str, Any] = {"messaging.system": "event_manager"}

__all__ = ["Tracing"]
