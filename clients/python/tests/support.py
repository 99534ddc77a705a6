"""What several tests need."""

import os
import threading
import time

import pytest

from event_manager._ask import ask

#: For tests that need hubs without keys, such as those that start a daemon without any; see conftest.py.
in_the_clear = pytest.mark.skipif("EVENT_MANAGER_TEST_CURVE" in os.environ, reason="it needs connections without keys")

#: Seconds that anything may take on a crowded machine.
PATIENCE = 60.0


class Log:
    """What handlers were given."""

    def __init__(self):
        self.items = []
        self.changed = threading.Condition()

    def add(self, item):
        with self.changed:
            self.items.append(item)
            self.changed.notify_all()

    def wait(self, count):
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.items) >= count, PATIENCE), self.items
            return list(self.items)


def wait_for(condition, patience=PATIENCE):
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "it does not come true"
        time.sleep(0.005)


def settled(daemon, hub):
    """Waits until all that was published is done with."""
    hub.flush()
    daemon.wait_idle(PATIENCE)


def letters(daemon, service="Billing"):
    """The dead letters of a service, as the daemon lists them."""
    return ask(daemon.address, {"token": "dlq", "op": "list", "service": service}, PATIENCE)["letters"]


def details(daemon, service="Billing"):
    """Why events became dead letters."""
    return [each["detail"] for each in letters(daemon, service)]


def law(daemon):
    """Every matched event is somewhere, and has been counted once."""
    for service in daemon.status()["services"]:
        counters = service["counters"]
        parts = [counters[each] for each in ("delivered", "queued", "inFlight", "deadLettered", "expired")]
        assert counters["matched"] == sum(parts) + sum(counters["dropped"].values()), service
