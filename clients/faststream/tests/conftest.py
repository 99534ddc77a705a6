"""A daemon for all tests, and brokers for it."""

import itertools
import os

import anyio
import pytest
from event_manager.testing import TestHub
from faststream_event_manager import EventManagerBroker, TestEventManagerBroker

PATIENCE = 30.0
_numbers = itertools.count()


@pytest.fixture(scope="session")
def daemon():
    """A daemon with durable queues."""
    with TestHub(durable=True, config={"services": {"*": {"retry": {"initialMs": 20, "maxMs": 50, "maxDeliveries": 4}}}}) as hub:
        yield hub


@pytest.fixture(autouse=True)
def address(daemon, monkeypatch):
    """Brokers find it by themselves."""
    monkeypatch.setenv("EVENT_MANAGER_CLIENT_ADDRESS", daemon.address)
    return daemon.address


@pytest.fixture
def name():
    """A name that no other test has: for subjects and services."""
    return f"test{os.getpid()}x{next(_numbers)}"


@pytest.fixture
def broker():
    return EventManagerBroker(logger=None, graceful_timeout=5.0)


@pytest.fixture(params=["connected", "memory"])
def enter(request):
    """Starts brokers: with the daemon, or in memory."""

    class Started:
        def __init__(self, *brokers):
            self.brokers = brokers

        async def __aenter__(self):
            if request.param == "memory":
                self.context = TestEventManagerBroker(*self.brokers)
                await self.context.__aenter__()
            else:
                for each in self.brokers:
                    await each.start()
            return self.brokers[0]

        async def __aexit__(self, *error):
            if request.param == "memory":
                await self.context.__aexit__(*error)
            else:
                for each in self.brokers:
                    await each.stop()

    return Started


class Calls(list):
    """What handlers got."""

    async def wait(self, count, timeout=PATIENCE):
        """Waits until there are so many."""
        with anyio.fail_after(timeout):
            while len(self) < count:
                await anyio.sleep(0.005)
        return list(self)


@pytest.fixture
def calls():
    return Calls()
