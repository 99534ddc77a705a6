"""FastStream's own tests for brokers, for this one. It belongs into a checkout of FastStream: see `run`."""

import importlib
import os
from typing import Any

import pytest
from event_manager.testing import TestHub
from faststream import BaseMiddleware
from faststream_event_manager import (
    EventManagerBroker,
    EventManagerPublisher,
    EventManagerResponse,
    EventManagerRoute,
    EventManagerRouter,
    TestEventManagerBroker,
)
from faststream_event_manager.fastapi import EventManagerRouter as FastAPIRouter
from faststream_event_manager.response import EventManagerPublishCommand
from faststream_event_manager.testing import FakeProducer


@pytest.fixture(scope="module", autouse=True)
def daemon():
    with TestHub() as hub:
        os.environ["EVENT_MANAGER_CLIENT_ADDRESS"] = hub.address
        yield hub


@pytest.fixture
def settings() -> None:
    """The broker finds the daemon by itself."""


class Config:
    timeout = 10.0

    def get_broker(self, apply_types: bool = False, **kwargs: Any) -> EventManagerBroker:
        return EventManagerBroker(apply_types=apply_types, **kwargs)

    def get_router(self, **kwargs: Any) -> EventManagerRouter:
        return EventManagerRouter(**kwargs)


class Memory(Config):
    def patch_broker(self, *brokers: EventManagerBroker, **kwargs: Any) -> TestEventManagerBroker:
        return TestEventManagerBroker(*brokers, **kwargs)


class Double(BaseMiddleware):
    async def consume_scope(self, call_next, msg):
        msg.body *= 2
        return await call_next(msg)

    async def publish_scope(self, call_next, cmd):
        cmd.body *= 2
        return await call_next(cmd)


CONNECTED = {
    "consume": ["BrokerRealConsumeTestcase"],
    "publish": ["BrokerPublishTestcase"],
    "requests": ["RequestsTestcase"],
    "router": ["RouterTestcase"],
    "parser": ["CustomParserTestcase"],
    "middlewares": ["MiddlewareTestcase", "ExceptionMiddlewareTestcase"],
    "exception_handlers": ["ExceptionMiddlewareTestcase"],
    "include_router": ["IncludeRouterTestcase"],
    "fastapi": ["FastAPITestcase"],
}
IN_MEMORY = {
    "testclient": ["BrokerTestclientTestcase"],
    "requests": ["RequestsTestcase"],
    "router": ["RouterTestcase", "RouterLocalTestcase"],
    "parser": ["CustomParserTestcase"],
    "codec": ["CodecTestcase"],
    "middlewares": ["MiddlewareTestcase", "MiddlewaresOrderTestcase", "ExceptionMiddlewareTestcase"],
    "exception_handlers": ["ExceptionMiddlewareTestcase"],
    "fastapi": ["FastAPILocalTestcase"],
}
MORE = {
    "route_class": EventManagerRoute,
    "publisher_class": EventManagerPublisher,
    "router_class": FastAPIRouter,
    "broker_router_class": EventManagerRouter,
    "get_middleware": lambda self, **kwargs: Double,
    "get_fake_producer_class": lambda self: FakeProducer,
}


def collect(kind: str, config: type, table: dict[str, list[str]]) -> None:
    """Makes a class of tests of each of FastStream's that this version has."""
    for module, names in table.items():
        try:
            found = importlib.import_module(f"tests.brokers.base.{module}")
        except ModuleNotFoundError as error:
            if error.name != f"tests.brokers.base.{module}":
                raise
            continue
        for name in names:
            if hasattr(found, name):
                made = type(f"Test{kind}{name}", (config, getattr(found, name)), dict(MORE))
                globals().setdefault(made.__name__, made)


collect("Connected", Config, CONNECTED)
collect("Memory", Memory, IN_MEMORY)


class TestConnection(importlib.import_module("tests.brokers.base.connection").BrokerConnectionTestcase):
    broker = EventManagerBroker


class TestPublishCommand(importlib.import_module("tests.brokers.base.publish_command").BasePublishCommandTestcase):
    publish_command_cls = EventManagerPublishCommand

    def test_own_responses(self) -> None:
        cmd = EventManagerPublishCommand.from_cmd(EventManagerResponse(1, id="x").as_publish_command())
        assert (cmd.body, cmd.id) == (1, "x")
