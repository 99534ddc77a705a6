"""Metrics and spans, with the real packages."""

import asyncio
import subprocess
import sys

import pytest

import event_manager as em

PATIENCE = 60.0


def work(hub, daemon, is_async):
    """Publishes an event that is tried twice, and one that becomes a dead letter; the current span's trace in the handlers."""
    service, seen = em.Service("Billing", retry=em.Retry(initial=0.01)), []

    def handle(body: str, event: em.Event):
        if body == "never":
            raise em.Reject("never")
        if event.attempt == 1:
            raise OSError("once")
        seen.append(event.headers)

    async def handle_async(body: str, event: em.Event):
        await asyncio.sleep(0)
        handle(body, event)

    service.on("a")(handle_async if is_async else handle)
    service.start(hub)
    hub.publish("a", "later")
    hub.emit("a", "never")
    hub.flush()
    daemon.wait_idle(PATIENCE)
    service.stop()
    return seen


@pytest.mark.parametrize("is_async", [False, True])
def test_metrics(hub, is_async):
    client = pytest.importorskip("prometheus_client")
    from event_manager import prometheus

    registry = client.CollectorRegistry()
    metrics = prometheus.Metrics(registry)
    with em.connect(hub.address, timeout=PATIENCE, hooks=[metrics]) as connected:
        work(connected, hub, is_async)
        for number in range(prometheus.SUBJECTS_MAX + 20):
            connected.publish(f"many.{number}")

    def value(name, **labels):
        return registry.get_sample_value(f"event_manager_client_{name}", labels)

    assert value("published_total", subject="a") == 2 and value("published_bytes_total") == 10
    assert value("published_total", subject="other") == 21
    assert value("handling_seconds_count", service="Billing", outcome="done") == 1
    assert value("handling_seconds_count", service="Billing", outcome="error") == 2
    assert value("retries_total", service="Billing") == 1 and value("dead_letters_total", service="Billing") == 1
    assert value("connections_total") == 1


@pytest.mark.parametrize("is_async", [False, True])
def test_spans_of_who_publishes_and_who_handles_are_of_one_trace(hub, is_async):
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from event_manager import otel

    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    with em.connect(hub.address, timeout=PATIENCE, hooks=[otel.Tracing(provider)]) as connected:
        [headers] = work(connected, hub, is_async)
    finished = spans.get_finished_spans()
    published = [each for each in finished if each.name == "publish a"]
    handled = [each for each in finished if each.name == "process a"]
    assert (len(published), len(handled)) == (2, 3)
    by_trace = {each.context.trace_id: each for each in published}
    for each in handled:
        parent = by_trace[each.context.trace_id]
        assert each.parent.span_id == parent.context.span_id
    assert headers["traceparent"].split("-")[1] == f"{published[0].context.trace_id:032x}"
    assert sorted((each.attributes["messaging.event_manager.attempt"], each.status.status_code.name) for each in handled) == [
        (1, "ERROR"), (1, "ERROR"), (2, "UNSET"),
    ]


def test_the_packages_are_imported_only_if_they_are_used():
    program = """
import sys
sys.modules["prometheus_client"] = sys.modules["opentelemetry.trace"] = None
import event_manager as em
from event_manager import prometheus, otel
for make in (prometheus.Metrics, otel.Tracing):
    try:
        make()
    except em.Missing as error:
        print(error)
"""
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.splitlines() == [
        "event_manager.prometheus needs the package prometheus-client; nothing was done; pip install 'event-manager[prometheus]'",
        "event_manager.otel needs the package opentelemetry-api; nothing was done; pip install 'event-manager[otel]'",
    ]
