"""A network that goes silent, and a worker that is stopped beyond its lease."""

import collections
import os
import signal
import subprocess
import sys
import threading
import time

from silence import Wire
from support import PATIENCE, law, letters, wait_for

import event_manager as em
from event_manager import _io
from event_manager.testing import TestHub


class Worker:
    """Handles events, and remembers each."""

    def __init__(self, hub, name="Billing"):
        self.service = em.Service(name, delivery="queue", credit=8)
        self.came, self.lock, self.attempts = collections.Counter(), threading.Lock(), []

        @self.service.on("order.*")
        def handle(body: int, event: em.Event) -> None:
            with self.lock:
                self.came[body] += 1
                self.attempts.append((body, event.attempt))

        self.service.start(hub, PATIENCE)


def test_a_silent_cut_of_all_connections(monkeypatch):
    monkeypatch.setattr(_io, "HEARTBEAT_SECONDS", 0.3)
    # The daemon gives a silent peer up, too, and its events to others. One that was sent events may only be
    # busy, as long as its machine answers, as the relay's does: its events come again after ackTimeout.
    config = {"heartbeatInterval": 0.3, "services": {"Billing": {"ackTimeout": 2}}}
    with TestHub(durable=True, config=config) as daemon:
        with Wire(daemon) as wire, em.connect(wire.address, timeout=PATIENCE) as hub, em.connect(daemon.address, timeout=PATIENCE) as near:
            worker = Worker(hub)
            with hub.subscribe("order.") as events:
                for number in range(10):
                    near.emit("order.new", number, level="disk")
                for round in range(1, 4):
                    assert events.next(PATIENCE).subject == "order.new"
                    wait_for(lambda: len(worker.came) >= round * 10)
                    wire.cut()
                    began = time.monotonic()
                    # These come while nobody knows yet that the connections are dead.
                    for number in range(round * 10, round * 10 + 10):
                        near.emit("order.new", number, level="disk")
                    # A request over the dead connection is answered over the next one.
                    assert hub.emit("order.after", 1000 + round, id=f"after {round}").services == 1
                    wait_for(lambda: sum(1 for each in worker.came if each < 1000) >= round * 10 + 10)
                    assert time.monotonic() - began < PATIENCE
                    # The plain subscription is back, and publishing too.
                    wait_for(lambda: near.publish("order.look", 9999) or events.take() is not None)
            hub.flush(PATIENCE)
            daemon.wait_idle(PATIENCE)
            once = collections.Counter(number for number, attempt in worker.attempts if attempt == 1 and number < 9999)
            # What came twice had another attempt number than 1 the second time.
            assert max(once.values()) == 1
            assert set(range(40)) <= set(worker.came)
            assert letters(daemon) == []
        law(daemon)


STOPPED = """
import sys, event_manager as em

service = em.Service("Billing", delivery="queue", credit=8)

@service.on("order.*")
def handle(body: int, event: em.Event) -> None:
    print(body, event.attempt, flush=True)

em.run(service)
"""


def test_a_worker_that_is_stopped_beyond_its_lease():
    with TestHub(durable=True, config={"subscriptionTtl": 0.6, "heartbeatInterval": 0.3}) as daemon:
        environment = {**os.environ, "EVENT_MANAGER_CLIENT_ADDRESS": daemon.address}
        process = subprocess.Popen([sys.executable, "-c", STOPPED], env=environment, stdout=subprocess.PIPE, text=True)
        handled = []
        reader = threading.Thread(target=lambda: handled.extend(tuple(map(int, line.split())) for line in process.stdout))
        reader.start()
        try:
            with em.connect(daemon.address, timeout=PATIENCE) as hub:
                wait_for(lambda: any(each["workers"]["ready"] for each in daemon.status()["services"]))
                for round in range(2):
                    process.send_signal(signal.SIGSTOP)
                    for number in range(round * 20, round * 20 + 20):
                        hub.emit("order.new", number, level="disk")
                    # Its lease is over. Its connection may stay: it may be busy with what it holds.
                    wait_for(lambda: not daemon.status()["services"] or not daemon.status()["services"][0]["subscriptions"])
                    process.send_signal(signal.SIGCONT)
                    daemon.wait_idle(PATIENCE)
                    # It may take events before its subscription is renewed.
                    wait_for(lambda: daemon.status()["services"][0]["subscriptions"])
                    [service] = daemon.status()["services"]
                    assert service["subscriptions"] and service["workers"]["ready"] == 1
        finally:
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
            reader.join(PATIENCE)
            process.stdout.close()
        assert {number for number, _ in handled} == set(range(40))
        # Once in these hands for each attempt: what came again after the lease says so.
        assert len(handled) == len(set(handled))
        law(daemon)
