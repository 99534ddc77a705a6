"""Services on the real daemon."""

import asyncio
import collections
import dataclasses
import os
import random
import threading
import time
from typing import Optional

import pytest
from support import PATIENCE, Log, letters

import event_manager as em
from event_manager import aio
from event_manager._ask import ask
from event_manager.testing import TestHub


@dataclasses.dataclass
class Order:
    id: int
    note: Optional[str] = None


def quick(**more):
    return em.Retry(initial=0.01, **more)


def counters(daemon):
    [service] = daemon.status()["services"]
    return service["counters"]


def test_bodies_come_as_the_types_of_the_annotations(hub, connected):
    service, log = em.Service("Billing"), Log()

    @service.on("order.*")
    def order(body: Order, event: em.Event[Order]) -> None:
        log.add((body, event.subject, event.headers, event.attempt))
        assert event.body is body

    @service.on("text", dialect="exact")
    def text(body: str) -> None:
        log.add(body)

    @service.on("raw", "other.*.x")
    def raw(body) -> None:
        log.add(body)

    @service.on("any.", dialect="prefix")
    def any_event(event: em.Event) -> None:
        log.add((event.subject, event.raw))

    service.start(connected)
    connected.publish("order.new", Order(1, "ü"), headers={"a": "b"})
    connected.publish("text", "ü")
    connected.publish("raw", b"\xff")
    connected.publish("other.b.x", b"o")
    connected.publish("any.thing", b"1")
    connected.publish("order.new.not", b"nobody")
    items = log.wait(5)
    assert items == [(Order(1, "ü"), "order.new", {"a": "b"}, 1), "ü", b"\xff", b"o", ("any.thing", b"1")]
    connected.flush()
    hub.wait_idle()
    assert counters(hub)["delivered"] == 5
    service.stop()
    assert letters(hub) == []


def test_a_handler_that_raises_is_tried_again_then_it_is_a_dead_letter(hub, connected):
    service, log = em.Service("Billing", retry=quick(max=3)), Log()

    @service.on("a")
    def fail(body: str, event: em.Event) -> None:
        log.add((body, event.attempt))
        if body == "never" or event.attempt < 2:
            raise RuntimeError("no luck\nat all")

    service.start(connected)
    connected.publish("a", "later")
    connected.publish("a", "never")
    items = log.wait(5)
    connected.flush()
    hub.wait_idle()
    assert sorted(log.items) == [("later", 1), ("later", 2), ("never", 1), ("never", 2), ("never", 3)], items
    [letter] = letters(hub)
    assert letter["attempts"] == 3
    assert "RuntimeError: no luck at all" in letter["detail"]


def test_what_can_not_be_handled_is_one_dead_letter_at_once(hub, connected):
    service, log = em.Service("Billing", retry=quick(on=(OSError,))), Log()

    @service.on("a")
    def handle(body: Order) -> None:
        log.add(body.id)
        if body.id == 1:
            raise em.Reject("not ours")
        if body.id == 2:
            raise ValueError("not among those that are tried again")

    service.start(connected)
    for body in (b"{", b'{"id": "x"}', b"{}", b"\xff", Order(1), Order(2), Order(3)):
        connected.publish("a", body)
    connected.flush()
    hub.wait_idle()
    assert log.items == [1, 2, 3]
    details = [letter["detail"] for letter in letters(hub)]
    assert [letter["attempts"] for letter in letters(hub)] == [1] * 6
    for detail, part in zip(details, ("not JSON", "body.id should be", "body lacks id", "not JSON", "Reject: not ours", "ValueError")):
        assert part in detail


def test_all_handlers_that_match_run(hub, connected):
    service, log = em.Service("Billing"), Log()
    service.on("a.*")(lambda body: log.add(1))
    service.on("a.b")(lambda body: log.add(2))
    service.start(connected)
    connected.publish("a.b")
    assert log.wait(2) == [1, 2]
    connected.flush()
    hub.wait_idle()
    assert counters(hub)["matched"] == 1


def test_handlers_run_at_once_as_many_as_allowed(connected):
    service, together, log = em.Service("Billing", concurrency=3), threading.Barrier(3), Log()

    @service.on("a")
    def handle(body: bytes) -> None:
        together.wait(PATIENCE)
        log.add(body)

    service.start(connected)
    for _ in range(3):
        connected.publish("a")
    log.wait(3)


def test_async_handlers(hub, connected):
    service, log = em.Service("Billing", concurrency=3, retry=quick()), Log()
    waiting = []

    @service.on("a")
    async def handle(body: int, event: em.Event) -> None:
        waiting.append(asyncio.get_running_loop().create_future())
        if len(waiting) == 3:
            for each in waiting:
                each.set_result(None)
        await waiting[-1] if len(waiting) < 3 else None
        log.add((body, event.attempt))
        if body == 2 and event.attempt == 1:
            raise RuntimeError("once")

    @service.on("b")
    def plain(body: bytes) -> None:
        log.add(threading.current_thread().name)

    service.start(connected)
    for number in range(3):
        connected.publish("a", number)
    connected.publish("b")
    log.wait(5)
    connected.flush()
    hub.wait_idle()
    names = [each for each in log.items if isinstance(each, str)]
    assert sorted(each for each in log.items if not isinstance(each, str)) == [(0, 1), (1, 1), (2, 1), (2, 2)]
    assert len(names) == 1 and "asyncio" in names[0]
    service.stop()


@pytest.mark.parametrize("is_async", [False, True])
def test_a_handler_that_is_cancelled_or_exits_is_tried_again(connected, is_async):
    service, log = em.Service("Billing", retry=quick()), Log()

    def handle(body: bytes, event: em.Event) -> None:
        log.add(event.attempt)
        if event.attempt == 1:
            raise asyncio.CancelledError if is_async else SystemExit(1)

    async def handle_async(body: bytes, event: em.Event) -> None:
        handle(body, event)

    service.on("a")(handle_async if is_async else handle)
    service.start(connected)
    connected.publish("a")
    assert log.wait(2) == [1, 2]


def test_handlers_that_never_wait_leave_others_their_turn(connected):
    service, log = em.Service("Billing", concurrency=2, credit=1000), Log()
    turns = []

    @service.on("a")
    async def first(body: bytes) -> None:
        await asyncio.sleep(0)
        turns.append("first")

    @service.on("b")
    async def busy(body: bytes) -> None:
        turns.append("busy")
        if len(turns) == 501:
            log.add(turns)

    service.start(connected)
    for number in range(501):
        connected.publish("b" if number else "a")
    [came] = log.wait(1)
    assert came.index("first") < 200


def test_a_handler_may_run_for_longer_than_the_ack_timeout():
    with TestHub(config={"services": {"*": {"ackTimeout": 0.6}}}) as daemon, em.connect(daemon.address, timeout=PATIENCE) as hub:
        service, log = em.Service("Billing", ack_timeout=0.6), Log()
        release = threading.Event()

        @service.on("a")
        def handle(body: bytes, event: em.Event) -> None:
            log.add((body, event.attempt))
            assert release.wait(PATIENCE)

        service.start(hub)
        hub.publish("a", b"long")
        hub.publish("a", b"behind it")
        log.wait(1)
        # Five times the timeout, by the daemon's own count of time.
        began = daemon.status()["uptimeSeconds"]
        while daemon.status()["uptimeSeconds"] < began + 3:
            time.sleep(0.1)
        release.set()
        log.wait(2)
        daemon.wait_idle()
        assert log.items == [(b"long", 1), (b"behind it", 1)]


def test_stopping_finishes_what_runs_and_gives_back_the_rest(hub, connected):
    service, log = em.Service("Billing", delivery="queue"), Log()
    release = threading.Event()

    @service.on("a")
    def handle(body: str) -> None:
        log.add(body)
        assert release.wait(PATIENCE)

    service.start(connected)
    for number in range(10):
        connected.publish("a", str(number))
    connected.flush()
    log.wait(1)
    while counters(hub)["inFlight"] < 10:
        time.sleep(0.005)
    stopper = threading.Thread(target=service.stop, args=(PATIENCE,))
    stopper.start()
    release.set()
    stopper.join()
    assert log.items == [str(number) for number in range(10)]
    hub.wait_idle()

    release.clear()
    service.start(connected)
    for number in range(10, 20):
        connected.publish("a", str(number))
    connected.flush()
    log.wait(11)
    while counters(hub)["inFlight"] < 10:
        time.sleep(0.005)
    with pytest.raises(em.MayBeLost, match="still run"):
        service.stop(drain=0.05)
    assert counters(hub)["queued"] == 10
    assert len(log.items) == 11
    release.set()


def test_a_subscription_that_is_refused(connected):
    with TestHub() as daemon, em.connect(daemon.address, timeout=PATIENCE) as hub:
        service = em.Service("Billing", delivery="queue")
        service.on("a")(lambda body: None)
        with pytest.raises(em.Nak) as refused:
            service.start(hub)
        assert refused.value.code == "no-store"
    hub = em.connect("tcp://127.0.0.1:1", timeout=0.1)
    with pytest.raises(em.NoAnswer, match="could not subscribe"):
        service.start(hub)
    service.start(connected)
    with pytest.raises(em.InvalidArgument, match="runs already"):
        service.start(connected)
    service.stop(unsubscribe=True)


def test_unsubscribe_ends_a_live_service(hub, connected):
    service = em.Service("Billing")
    service.on("a")(lambda body: None)
    service.start(connected)
    assert len(hub.status()["services"]) == 1
    service.stop()
    assert len(hub.status()["services"]) == 1
    service.start(connected)
    service.stop(unsubscribe=True)
    # Both starts had the same subscription.
    assert hub.status()["services"] == []


def test_a_service_without_state_subscribes_again_after_a_crash():
    with TestHub() as daemon, em.connect(daemon.address, timeout=PATIENCE) as hub:
        service, log = em.Service("Billing"), Log()
        service.on("a")(log.add)
        service.start(hub)
        for round in range(3):
            daemon.kill()
            daemon.start()
            while not any(each["workers"]["ready"] for each in daemon.status()["services"]):
                time.sleep(0.005)
            hub.publish("a", b"%d" % round)
            hub.flush()
            log.wait(round + 1)
        assert log.items == [b"0", b"1", b"2"]


def test_a_lease_that_was_lost_is_made_again():
    with TestHub(config={"subscriptionTtl": 1}) as daemon, em.connect(daemon.address, timeout=PATIENCE) as hub:
        service, log = em.Service("Billing"), Log()
        service.on("a")(log.add)
        service.start(hub)
        while not daemon.status()["services"]:
            time.sleep(0.005)
        [subscription] = daemon.status()["services"][0]["subscriptions"]
        # As if it had expired.
        ask(daemon.address, {"token": "unsubscribe", "id": subscription["id"]}, PATIENCE)
        while not any(each["workers"]["ready"] for each in daemon.status()["services"]):
            time.sleep(0.005)
        hub.publish("a", b"1")
        log.wait(1)
        # And it lives for longer than its time.
        began = daemon.status()["uptimeSeconds"]
        while daemon.status()["uptimeSeconds"] < began + 2.5:
            assert len(daemon.status()["services"]) == 1
            time.sleep(0.05)


def test_a_service_is_its_parents(hub, connected):
    service = em.Service("Billing")
    service.on("a")(lambda body: None)
    service.start(connected)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            service.stop()
            service.start(connected)
        except em.Forked:
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert hub.status()["services"][0]["workers"]["ready"] == 1


def test_handlers_that_can_not_work():
    service = em.Service("Billing")
    for function in (lambda: None, lambda a, b: None, lambda a, b, c: None):
        with pytest.raises(em.InvalidArgument, match="parameters"):
            service.on("a")(function)

    def odd(body: set) -> None:
        raise AssertionError

    with pytest.raises(em.InvalidArgument, match="can't be read as"):
        service.on("a")(odd)
    for arguments, options in ((("a",), {"dialect": "regex"}), ((), {}), (("",), {}), (("a\0",), {}), (("*" * 17,), {})):
        with pytest.raises(em.InvalidArgument):
            service.on(*arguments, **options)
    for options in ({"credit": 0}, {"concurrency": 0}, {"ack_timeout": 0}, {"max_handling": 0}, {"delivery": "tape"}):
        with pytest.raises(em.InvalidArgument):
            em.Service("Billing", **options)
    for name in ("", "x" * 256):
        with pytest.raises(em.InvalidArgument):
            em.Service(name)
    with pytest.raises(em.InvalidArgument):
        em.Retry(max=0)


def test_the_delays_of_retries():
    retry = em.Retry(initial=0.1, multiplier=2, max_delay=5, jitter=0)
    assert [retry.delay(attempt) for attempt in (1, 2, 3, 7, 100000)] == [0.1, 0.2, 0.4, 5, 5]
    delays = [em.Retry(initial=1, jitter=0.5).delay(1) for _ in range(200)]
    assert 0.5 <= min(delays) < 0.6 and 0.9 < max(delays) <= 1


def test_what_matches_no_pattern_here(hub, connected):
    # Another worker of the service has subscribed it to more.
    ask(hub.address, {"token": "subscribe", "id": "other", "service": "Billing", "subjects": ["exact:b"]}, PATIENCE)
    for is_async in (False, True):
        service, came = em.Service("Billing"), Log()
        service.on("a")(lambda body: came.add((b"a", body)))

        def others(body, event: em.Event) -> None:
            came.add((event.subject, body))

        async def others_async(body, event: em.Event) -> None:
            others(body, event)

        service.on_others()(others_async if is_async else others)
        service.start(connected)
        for subject in ("a", "b"):
            connected.publish(subject, b"1")
        assert sorted(map(str, came.wait(2))) == ["('b', b'1')", "(b'a', b'1')"]
        service.stop()
    with pytest.raises(em.InvalidArgument, match="there are no others"):
        em.Service("Billing", isolation="handler").on_others()(lambda body: None)


def test_a_request_of_one_s_own(hub, connected):
    told = connected.request({"token": "subscribe", "id": "x", "service": "S", "subjects": ["a"]})
    assert told[0] == "x"
    assert asyncio.run(ask_async(hub.address, {"token": "keep_alive", "id": "x"})) is not None
    with pytest.raises(em.Nak, match="unknown-subscription"):
        connected.request({"token": "keep_alive", "id": "y"}, repeatable=True)
    for fields in ({}, {"token": 5}, {"token": "status", "more": object()}):
        with pytest.raises(em.InvalidArgument, match="nothing was sent"):
            connected.request(fields)


async def ask_async(address, fields):
    async with aio.connect(address, timeout=PATIENCE) as hub:
        assert hub.hub.address == address
        return await hub.request(fields)


def test_a_subscription_that_does_not_wait():
    with em.connect("tcp://localhost:1", timeout=0.2) as away:
        subscription = away.subscribe("a", wait=False)
        assert subscription.take() is None
        with pytest.raises(em.NoAnswer, match="no event came"):
            subscription.next(timeout=0.01)
