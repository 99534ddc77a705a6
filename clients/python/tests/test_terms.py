"""What a service asks of the daemon when it subscribes, what a worker says of itself."""

import json
import logging
import re
import sys

import pytest
from support import PATIENCE, details, law, settled, wait_for

import event_manager as em
from event_manager import aio
from event_manager._ask import ask
from event_manager._messages import Answerer
from event_manager._worker import Worker
from event_manager.errors import Nak


def told(daemon, service="Billing"):
    """The terms of a service that the daemon tells to who subscribes to it, too."""
    connected = em.connect(daemon.address, timeout=PATIENCE)
    with connected:
        fields = {"token": "subscribe", "id": "looks", "service": service, "subjects": ["a"]}
        return connected._alive().requests.ask(fields, PATIENCE, whole=True).result()


def test_what_a_service_asks_for_holds(hub, connected):
    service, attempts = em.Service("Billing", ack_timeout=7.5, retry=em.Retry(max=12, initial=0.001, max_delay=0.002)), []

    @service.on("a")
    def handle(body, event: em.Event) -> None:
        attempts.append(event.attempt)
        raise OSError("always")

    service.start(connected)
    assert told(hub)["ackTimeoutMs"] == 7500
    connected.publish("a", b"1")
    settled(hub, connected)
    assert attempts == list(range(1, 13))  # more than a daemon's 8
    assert details(hub) == ["OSError: always"]
    service.stop()
    law(hub)


def test_what_a_service_does_not_ask_for_is_the_daemon_s(connected, hub):
    service = em.Service("Billing")
    service.on("a")(lambda body: None)
    service.start(connected)
    assert told(hub)["ackTimeoutMs"] == 30_000


def test_when_full(hub, connected):
    for when_full, kept in (("drop-newest", b"0"), ("drop-oldest", b"1")):
        service, came = em.Service(f"Billing {when_full}", when_full=when_full), []
        service.on("a")(came.append)
        service.start(connected)
        service.stop()
        half = b"x" * (33 << 20)
        for number in (b"0", b"1"):  # Together more than budgets.serviceQueueBytes.
            connected.publish("a", number + half)
            connected.flush(PATIENCE)
        service.start(connected)
        settled(hub, connected)
        assert [each[:1] for each in came] == [kept]
        service.stop(unsubscribe=True)
        # It was started twice, and has one subscription.
        assert all(each["name"] != service.name for each in hub.status()["services"])
    law(hub)


def test_terms_that_can_not_be(hub, connected):
    for options in (
        {"when_full": "explode"}, {"when_full": "spill", "delivery": "live"}, {"when_full": "drop-oldest", "delivery": "queue"},
        {"ack_timeout": 0}, {"ack_timeout": 1e6}, {"ack_timeout": -1},
    ):  # fmt: skip
        with pytest.raises(em.InvalidArgument):
            em.Service("Billing", **options)
    service = em.Service("Billing", when_full="spill")  # The daemon knows that its delivery is live.
    service.on("a")(lambda body: None)
    with pytest.raises(Nak, match="invalid-field.*whenFull"):
        service.start(connected)
    assert not service.running


class OldDaemon:
    """Stands before a daemon, and knows no such fields of SUBSCRIBE."""

    def __init__(self, daemon, *unknown):
        self.daemon, self.unknown, self.asked = daemon, unknown, []
        self.answerer = Answerer("127.0.0.1", self.handle)
        self.address = f"tcp://127.0.0.1:{self.answerer.port}"

    def handle(self, frames, reply):
        envelope, fields = frames[:-1], json.loads(frames[-1])
        self.asked.append(fields)
        for each in self.unknown:
            if fields["token"] == "subscribe" and each in fields:
                sentence = f'no field "{each}"; subscribe has id, service, subjects'
                reply([*envelope, json.dumps({"token": "TK_SYS_NAK", "code": "unknown-field", "error": sentence}).encode()])
                return
        answer = {"token": "TK_SYS_ACK", "data": ask(self.daemon.address, fields, PATIENCE)}
        reply([*envelope, json.dumps(answer).encode()])


@pytest.mark.parametrize(
    "options, field",
    [
        ({"order_by": "subject"}, "orderBy"),
        ({"when_full": "drop-newest"}, "whenFull"),
        ({"dead_letter_subject": "failed"}, "deadLetterSubject"),
        ({"retry": em.Retry(max=9)}, "retry"),
        ({"delivery": "live"}, "delivery"),
    ],
)
def test_a_daemon_that_is_too_old_for_what_would_not_be_the_same_without(hub, options, field):
    old = OldDaemon(hub, field)
    service = em.Service("Billing", **options)
    service.on("a")(lambda body: None)
    with em.connect(old.address, curve=False, timeout=PATIENCE) as connected:
        with pytest.raises(em.TooOld, match=f"{field} of subscribe.*nothing was done; use a newer daemon, or leave that out") as error:
            service.start(connected)
        assert error.value.field == field and not service.running
    assert hub.status()["services"] == []
    old.answerer.close()


def test_a_daemon_that_is_too_old_for_what_can_be_left_out(hub, caplog):
    old = OldDaemon(hub, "retry", "ackTimeout", "orderBy")
    service, came = em.Service("Billing", retry=em.Retry(max=3, initial=0.001), ack_timeout=500, concurrency=2), []

    @service.on("a")
    def handle(body, event: em.Event) -> None:
        came.append(event.attempt)
        raise OSError("always")

    with em.connect(old.address, curve=False, timeout=PATIENCE) as connected, caplog.at_level(logging.WARNING, "event_manager"):
        service.start(connected)
        connected.publish("a", b"1")
        settled(hub, connected)
        assert came == [1, 2, 3] and details(hub) == ["OSError: always"]
        # WIP is said as often as a daemon's own ackTimeout needs, not as the 500 s would.
        assert service._running.worker.ack_timeout == 30
        warnings = [each.getMessage() for each in caplog.records if "It works without that" in each.getMessage()]
        assert len(warnings) == 2 and "retry of subscribe" in warnings[0] + warnings[1]
        assert all("retry" not in each for each in old.asked[-1:])
        service.stop()
    old.answerer.close()
    law(hub)


def test_a_worker_says_who_it_is():
    worker = Worker(credit=4, ack_timeout=30.0, max_handling=100.0, name="billing-1")
    worker.opened()
    [ready] = worker.out
    assert ready[2:] == f'READY {{"ack":true,"credit":4,"client":"event-manager-python/{em.__version__}","name":"billing-1"}}'.encode()


def test_a_daemon_shows_who_its_workers_are(hub):
    service = em.Service("Billing")
    service.on("a")(lambda body: None)
    with em.connect(hub.address, timeout=PATIENCE, name="billing-1") as connected:
        service.start(connected)
        wait_for(lambda: hub.status()["services"][0]["workers"]["ready"] == 1)
        named = hub.status()["services"][0]["workers"].get("named")
        if named is None:
            pytest.skip("this daemon doesn't know workers' names")
        assert str(named).count("billing-1") == 1 and f"event-manager-python/{em.__version__}" in str(named)


@pytest.mark.parametrize("name", ["", "x" * 65, "ü" * 33, "a\nb", "a\0"])
def test_names_that_can_not_be(name):
    with pytest.raises(em.InvalidArgument, match="1 to 64 bytes"):
        em.connect("tcp://localhost:1", name=name)


class OlderDaemon:
    """Stands before a daemon, and counts frames behind an EMIT as its own."""

    def __init__(self, daemon):
        self.daemon, self.asked = daemon, []
        self.answerer = Answerer("127.0.0.1", self.handle)
        self.address = f"tcp://127.0.0.1:{self.answerer.port}"

    def handle(self, frames, reply):
        envelope, frames = frames[:2], frames[2:]
        if len(frames) > 4:
            reply([*envelope, b"TK_SYS_NAK", b"STRING", b"malformed-message: a message has 1 to 4 frames"])
            return
        fields = json.loads(frames[0])
        self.asked.append(fields)
        try:
            answer = {"token": "TK_SYS_ACK", "data": ask(self.daemon.address, fields, PATIENCE)}
        except Nak as nak:
            answer = {"token": "TK_SYS_NAK", "code": nak.code, "error": nak.sentence}
        reply([*envelope, json.dumps(answer).encode()])


def test_an_event_with_headers_for_an_older_daemon(hub):
    old = OlderDaemon(hub)
    with em.connect(hub.address, timeout=PATIENCE) as connected, em.connect(old.address, curve=False, timeout=PATIENCE) as through:
        with connected.subscribe("t") as events:
            receipt = through.emit("t", b"\xff\0", headers={"a": "b"}, ttl=60, id="1")
            assert (receipt.id, receipt.services, receipt.level) == ("1", 0, "memory")
            event = events.next(PATIENCE)
        assert (event.raw, event.headers) == (b"\xff\0", {"a": "b"})
        assert [each["token"] for each in old.asked if each["token"] == "emit"] == ["emit"]
        with pytest.raises(em.TooOld, match="headers, ttl or deliver_at of more than 3 MiB.*nothing was done; use a newer daemon"):
            through.emit("t", bytes(4 << 20), headers={"a": "b"})
        with pytest.raises(Nak, match="invalid-field"):
            through.emit("t", b"", id="x" * 300, headers={"a": "b"})
