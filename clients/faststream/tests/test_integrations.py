"""FastAPI, Prometheus, OpenTelemetry, the command line."""

import os
import signal
import subprocess
import sys
from typing import Annotated, Any

import anyio
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, Header
from fastapi.testclient import TestClient
from faststream import FastStream
from faststream_event_manager import EventManagerBroker
from faststream_event_manager import EventManagerRouter as PlainRouter
from faststream_event_manager import TestEventManagerBroker
from faststream_event_manager.fastapi import Context, EventManagerMessage, EventManagerRouter
from faststream_event_manager.opentelemetry import EventManagerTelemetryMiddleware
from faststream_event_manager.prometheus import EventManagerPrometheusMiddleware
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest


async def test_fastapi_with_the_daemon(name, calls):
    router = EventManagerRouter(logger=None)
    nested = PlainRouter(prefix="nested.")

    def half(body: int) -> int:
        return body // 2

    @router.subscriber(name, service=name)
    @router.publisher(f"{name}.out")
    async def handler(
        body: int,
        other: Annotated[int, Depends(half)],
        message: EventManagerMessage,
        tasks: BackgroundTasks,
        headers: Any = Context("message.headers"),
        kind: str = Header("none"),
    ) -> int:
        tasks.add_task(calls.append, ("background", body))
        calls.append((body, other, message.subject, headers["kind"], kind))
        return body

    @router.subscriber(f"{name}.out")
    async def out(body: int) -> None:
        calls.append(("out", body))

    @nested.subscriber(name)
    async def of_nested(body: str) -> None:
        calls.append(body)

    router.include_router(nested)
    app = FastAPI()
    app.include_router(router)

    async with router.broker as broker:
        await broker.start()
        await broker.publish(8, name, headers={"kind": "k"})
        await calls.wait(3)
        assert set(calls) == {(8, 4, name, "k", "k"), ("background", 8), ("out", 8)}
        await broker.publish("n", f"nested.{name}")
        assert (await calls.wait(4))[3] == "n"


def test_fastapi_starts_and_stops_the_broker(name, calls):
    router = EventManagerRouter(logger=None)

    @router.subscriber(name)
    async def handler(body: str) -> None:
        calls.append(body)

    @router.post("/send/{body}")
    async def send(body: str) -> str:
        receipt = await router.broker.publish(body, name)
        return receipt.level

    app = FastAPI()
    app.include_router(router)
    with TestClient(app) as client:
        assert client.app_state["broker"] is router.broker
        assert client.post("/send/x").json() == "memory"
        assert name in client.get("/asyncapi").text
        assert client.get("/asyncapi.json").json()["info"]
        import time

        deadline = time.monotonic() + 30
        while not calls and time.monotonic() < deadline:
            time.sleep(0.01)
    assert calls == ["x"] and router.broker._connection is None


async def test_fastapi_in_memory(name):
    router = EventManagerRouter(logger=None)

    @router.subscriber(name)
    async def handler(body: str) -> str:
        return body + "!"

    async with TestEventManagerBroker(router.broker) as broker:
        assert await (await broker.request("x", name)).decode() == "x!"


async def test_prometheus(enter, name, calls):
    registry = CollectorRegistry()
    broker = EventManagerBroker(logger=None, middlewares=[EventManagerPrometheusMiddleware(registry=registry, app_name="shop")])

    @broker.subscriber(name)
    async def handler(body: str) -> None:
        calls.append(body)

    async with enter(broker):
        await broker.publish("hello", name)
        await calls.wait(1)
        await anyio.sleep(0.05)
    text = generate_latest(registry).decode()
    for line in (
        f'faststream_received_messages_total{{app_name="shop",broker="event-manager",handler="{name}"}} 1.0',
        f'faststream_published_messages_total{{app_name="shop",broker="event-manager",destination="{name}",status="success"}} 1.0',
    ):
        assert line in text, text


async def test_opentelemetry(enter, name, calls):
    spans = InMemorySpanExporter()
    tracing = TracerProvider()
    tracing.add_span_processor(SimpleSpanProcessor(spans))
    middleware = EventManagerTelemetryMiddleware(tracer_provider=tracing, meter_provider=MeterProvider())
    broker = EventManagerBroker(logger=None, middlewares=[middleware])

    @broker.subscriber(name)
    @broker.publisher(f"{name}.out")
    async def handler(body: str) -> str:
        return body

    @broker.subscriber(f"{name}.out")
    async def out(body: str, headers: Any = Context("message.headers")) -> None:
        calls.append(1)

    from faststream import Context as FastStreamContext

    subscriber = broker.subscriber(f"{name}.headers")

    @subscriber
    async def seen(headers: Any = FastStreamContext("message.headers")) -> None:
        calls.append(headers)

    async with enter(broker):
        await broker.publish("", f"{name}.headers")
        (headers,) = await calls.wait(1)
        assert headers["traceparent"].startswith("00-")
        await broker.publish("x", name)
        with anyio.fail_after(30):
            while len([each for each in spans.get_finished_spans() if f"{name} process" == each.name]) < 1:
                await anyio.sleep(0.01)
    finished = spans.get_finished_spans()
    created = next(each for each in finished if each.name == f"{name} create")
    processed = next(each for each in finished if each.name == f"{name} process")
    assert processed.attributes["messaging.system"] == "event-manager"
    assert processed.attributes["messaging.message.payload_size_bytes"] == 1
    assert processed.context.trace_id == created.context.trace_id


APP = """
from faststream import FastStream
from faststream_event_manager import EventManagerBroker

broker = EventManagerBroker()
app = FastStream(broker)

@broker.subscriber("{name}.*", service="{name}")
async def handler(body: str) -> None:
    print("got", body, flush=True)

@app.after_startup
async def begin() -> None:
    await broker.publish("hello", "{name}.x")
"""


def test_the_command_line(tmp_path, name, address):
    pytest.importorskip("typer")
    (tmp_path / "shop.py").write_text(APP.format(name=name))
    running = subprocess.Popen(
        [sys.executable, "-m", "faststream", "run", "shop:app"],
        cwd=tmp_path, env={**os.environ, "EVENT_MANAGER_CLIENT_ADDRESS": address},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    lines = []
    try:
        for line in running.stdout:
            lines.append(line)
            if line == "got hello\n":
                break
    finally:
        running.send_signal(signal.SIGINT)
        rest, _ = running.communicate(timeout=60)
    text = "".join(lines) + rest
    assert "got hello" in text and running.returncode == 0, text
    assert f"{name}.* | {name} |" in text and "waiting for messages" in text, text


def test_applications_know_the_broker():
    broker = EventManagerBroker(logger=None)
    assert FastStream(broker).broker is broker
