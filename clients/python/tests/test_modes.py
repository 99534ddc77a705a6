"""Ways to acknowledge, order, isolation, middleware and hooks, on the real daemon."""

import asyncio
import threading

import pytest
from support import PATIENCE, details, settled

import event_manager as em
from event_manager.hooks import Hooks
from event_manager.testing import TestHub

QUICK = em.Retry(initial=0.01, max=3)


@pytest.mark.parametrize("is_async", [False, True])
def test_acknowledged_by_hand_at_any_time(hub, connected, is_async):
    service, held, came = em.Service("Billing", ack="manual", retry=QUICK), [], threading.Semaphore(0)

    def handle(body, event: em.Event):
        held.append((body, event.attempt, event))
        came.release()
        if body == b"raises" and event.attempt == 1:
            raise OSError("once")

    async def handle_async(body, event: em.Event):
        handle(body, event)

    service.on("a")(handle_async if is_async else handle)
    service.start(connected)
    for body in (b"ack", b"nak", b"term", b"raises"):
        connected.publish("a", body)
    for _ in range(5):
        assert came.acquire(timeout=PATIENCE)
    # Nobody has acknowledged anything yet; the one that raised came again.
    assert sorted((body, attempt) for body, attempt, _ in held) == [(b"ack", 1), (b"nak", 1), (b"raises", 1), (b"raises", 2), (b"term", 1)]
    assert hub.status()["services"][0]["counters"]["delivered"] == 0
    by = {(body, attempt): event for body, attempt, event in held}
    by[b"ack", 1].wip()
    assert by[b"ack", 1].ack() and not by[b"ack", 1].nak()
    assert by[b"nak", 1].nak(0.01, "not\nyet")
    assert by[b"term", 1].term("never  again")
    assert not by[b"raises", 1].ack()  # It was answered when it raised.
    assert by[b"raises", 2].ack()
    assert came.acquire(timeout=PATIENCE)
    body, attempt, event = held[-1]
    assert (body, attempt) == (b"nak", 2)
    event.ack()
    settled(hub, connected)
    assert details(hub) == ["never again"]
    service.stop()
    with pytest.raises(em.InvalidArgument, match="seconds"):
        event.nak(1e9)
    with connected.subscribe("a") as events:
        connected.publish("a")
        with pytest.raises(em.InvalidArgument, match="service"):
            events.next(PATIENCE).ack()
    with pytest.raises(em.InvalidArgument, match="has to take the Event"):
        service.on("b")(lambda body: None)


def test_what_is_not_acknowledged_by_hand_comes_back_after_a_stop(hub, connected):
    service, came = em.Service("Billing", ack="manual"), threading.Semaphore(0)
    attempts = []

    @service.on("a")
    def handle(event: em.Event) -> None:
        attempts.append(event.attempt)
        came.release()
        if event.attempt > 1:
            event.ack()

    service.start(connected)
    connected.publish("a")
    assert came.acquire(timeout=PATIENCE)
    with pytest.raises(em.NotFinished, match="Billing.*stop with a longer drain") as error:
        service.stop(drain=0)
    assert error.value.lost == 1 and error.value.may_be_taken
    service.start(connected)
    assert came.acquire(timeout=PATIENCE)
    settled(hub, connected)
    assert attempts == [1, 2]


def test_acknowledged_before_they_are_handled(hub, connected):
    service, began, release, done = em.Service("Billing", ack="before", retry=QUICK), threading.Event(), threading.Event(), []

    @service.on("a")
    def handle(body) -> None:
        began.set()
        assert release.wait(PATIENCE)
        done.append(body)
        raise OSError("nobody tries it again")

    service.start(connected)
    connected.publish("a", b"1")
    assert began.wait(PATIENCE)
    settled(hub, connected)  # It is done for the daemon.
    assert hub.status()["services"][0]["counters"]["delivered"] == 1
    stopped = threading.Thread(target=service.stop, args=(PATIENCE,))
    stopped.start()
    assert done == []
    release.set()
    stopped.join(PATIENCE)
    assert not stopped.is_alive() and done == [b"1"]
    assert details(hub) == [] and hub.status()["services"][0]["counters"]["retries"] == 0


def test_an_early_ack_counts_and_what_is_raised_then_does_not(hub, connected):
    service, attempts = em.Service("Billing", retry=QUICK), []

    @service.on("a")
    def handle(event: em.Event) -> None:
        attempts.append(event.attempt)
        event.ack()
        raise OSError("too late")

    service.start(connected)
    connected.publish("a")
    settled(hub, connected)
    assert attempts == [1] and details(hub) == []


@pytest.mark.parametrize("is_async", [False, True])
def test_a_retry_runs_only_the_handlers_that_failed(hub, connected, is_async):
    service, ran = em.Service("Billing", retry=QUICK), []

    def make(name, fails_until):
        def handle(event: em.Event):
            ran.append((name, event.attempt))
            if event.attempt < fails_until:
                raise OSError(name)

        async def handle_async(event: em.Event):
            handle(event)

        service.on("a")(handle_async if is_async else handle)

    make("first", 3)
    make("second", 1)
    make("third", 2)
    service.start(connected)
    connected.publish("a")
    settled(hub, connected)
    assert ran == [("first", 1), ("second", 1), ("third", 1), ("first", 2), ("third", 2), ("first", 3)]
    assert details(hub) == []


def test_isolated_handlers_have_their_own_retries_and_letters(hub, connected):
    service, ran = em.Service("Billing", isolation="handler", retry=QUICK), []

    @service.on("a")
    def fails(event: em.Event) -> None:
        ran.append(("fails", event.attempt))
        raise OSError("always")

    @service.on("*")
    def works(body) -> None:
        ran.append(("works", body))

    with pytest.raises(em.InvalidArgument, match="name 'works'"):
        service.on("b")(works)
    service.start(connected)
    assert service.running
    with pytest.raises(em.InvalidArgument, match="runs already"):
        service.start(connected)
    connected.publish("a", b"1")
    settled(hub, connected)
    assert sorted(ran) == [("fails", 1), ("fails", 2), ("fails", 3), ("works", b"1")]
    assert [each["name"] for each in hub.status()["services"]] == ["Billing.fails", "Billing.works"]
    assert details(hub, "Billing.fails") == ["OSError: always"] and details(hub, "Billing.works") == []
    service.stop(unsubscribe=True)
    assert not service.running and hub.status()["services"] == []


def test_an_isolated_service_that_can_not_start_is_stopped_as_a_whole(connected):
    service = em.Service("Billing", isolation="handler", delivery="queue")
    service.on("a")(lambda body: None)
    with TestHub() as stateless, em.connect(stateless.address, timeout=PATIENCE) as other:
        with pytest.raises(em.Nak, match="no-store"):
            service.start(other)
    service.start(connected)
    service.stop()


def test_middleware_is_around_handlers(hub, connected):
    order = []

    def outer(event, call_next):
        order.append(f"before {event.subject}")
        result = call_next()
        order.append("after")
        return result

    def doubling(event, call_next):
        if event.body == 1:
            raise em.Reject("no ones")
        call_next()
        return call_next()

    service = em.Service("Billing", middleware=[outer, doubling], retry=QUICK)

    @service.on("a")
    def handle(body: int) -> None:
        order.append(body)

    service.start(connected)
    connected.publish("a", 2)
    connected.publish("a", 1)
    settled(hub, connected)
    assert order == ["before a", 2, 2, "after", "before a"]
    assert details(hub) == ["Reject: no ones"]


def test_async_middleware(hub, connected):
    order = []

    async def around(event, call_next):
        order.append("before")
        await asyncio.sleep(0)
        await call_next()
        order.append("after")

    service = em.Service("Billing", middleware=[around])

    @service.on("a")
    async def handle(body) -> None:
        order.append(body)

    service.start(connected)
    connected.publish("a", b"1")
    settled(hub, connected)
    assert order == ["before", b"1", "after"]
    service.stop()
    service.on("b")(lambda body: None)
    with pytest.raises(em.InvalidArgument, match="is async, and a handler"):
        service.start(connected)
    assert not service.running


class Told(Hooks):
    def __init__(self):
        self.calls = []

    def on_publish(self, subject, body, headers):
        headers["x-hook"] = subject
        self.calls.append(("publish", subject, body))

    def on_consume(self, service, event):
        self.calls.append(("consume", service, event.attempt))

    def on_done(self, service, event, seconds):
        self.calls.append(("done", event.headers, seconds >= 0))

    def on_error(self, service, event, error, seconds):
        self.calls.append(("error", type(error)))

    def on_retry(self, service, event, delay):
        self.calls.append(("retry", delay > 0))

    def on_dead_letter(self, service, event, reason):
        self.calls.append(("dead letter", reason))
        raise RuntimeError("a hook that fails changes nothing")

    def on_state(self, connected, why):
        self.calls.append(("state", connected))


def test_hooks_are_told_in_order(hub):
    told = Told()
    with em.connect(hub.address, timeout=PATIENCE, hooks=[told, Hooks()]) as connected:
        service = em.Service("Billing", retry=QUICK)

        @service.on("a")
        def handle(body: int, event: em.Event) -> None:
            if event.attempt == 1:
                raise OSError("once")

        service.start(connected)
        connected.emit("a", 1)
        settled(hub, connected)
        connected.publish("a", b"{")
        settled(hub, connected)
        hub.restart()
        connected.status()
    state, *calls = told.calls
    assert state == ("state", True)
    assert calls[:6] == [
        ("publish", "a", b"1"), ("consume", "Billing", 1), ("error", OSError), ("retry", True), ("consume", "Billing", 2),
        ("done", {"x-hook": "a"}, True),
    ]
    assert [each[0] for each in calls[6:]] == ["publish", "error", "dead letter", "state", "state"]
    assert details(hub)[0].startswith("DecodeError")


def test_a_daemon_that_does_not_know_an_order_is_too_old(hub, connected):
    service, came = em.Service("Billing", order_by="subject", concurrency=4, retry=QUICK), []

    @service.on("a.*")
    def handle(body, event: em.Event) -> None:
        came.append((event.subject, body))
        if event.attempt == 1:
            raise OSError("so that it comes again")

    try:
        service.start(connected)
    except em.TooOld as old:
        assert "orderBy of subscribe" in str(old) and "leave that out" in str(old)
        return
    for number in range(20):
        connected.publish(f"a.{number % 2}", b"%d" % number)
    settled(hub, connected)
    for subject in ("a.0", "a.1"):
        numbers = [int(body) for each, body in came if each == subject]
        assert numbers == sorted(numbers) and len(numbers) == 20


def test_modes_that_can_not_be():
    for options in ({"ack": "never"}, {"isolation": "process"}, {"order_by": "size"}, {"order_by": -1}, {"order_by": True}):
        with pytest.raises(em.InvalidArgument):
            em.Service("Billing", **options)
