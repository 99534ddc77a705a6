"""Poison among others' events, and closing while a hundred handlers run."""

import asyncio
import collections
import threading
import time

import pytest
from support import PATIENCE, Log, details, law, settled, wait_for

import event_manager as em


def timed(hub, connected, poison):
    """Events in a second, with poison among them, and what was handled."""
    service, handled = em.Service("Billing", concurrency=4, credit=64, retry=em.Retry(max=3, initial=0.01)), Log()

    @service.on("order.*")
    def handle(body: dict, event: em.Event) -> None:
        if "poison" in body:
            raise em.Reject("poison") if body["poison"] == "reject" else OSError("poison")
        handled.add(body["id"])

    service.start(connected)
    count = 20_000
    began = time.monotonic()
    for number in range(count):
        connected.publish("order.new", {"id": number})
        if poison and number % 2000 == 0:
            connected.publish("order.new", {"poison": "raise"})
            connected.publish("order.new", {"poison": "reject"})
            connected.publish("order.new", b"no JSON")
    assert sorted(handled.wait(count)) == list(range(count))
    took = time.monotonic() - began
    settled(hub, connected)
    service.stop(unsubscribe=True)
    return count / took


def test_poison_becomes_one_letter_each_and_holds_nobody_up(hub, connected, capsys):
    with_poison = max(timed(hub, connected, True) for _ in range(2))
    kinds = collections.Counter(each.partition(":")[0] for each in details(hub))
    assert kinds == {"OSError": 20, "Reject": 20, "DecodeError": 20}  # of two runs
    without = max(timed(hub, connected, False) for _ in range(2))
    with capsys.disabled():
        print(f"\n{with_poison:.0f} events/s with poison among them, {without:.0f} without: {with_poison / without:.0%}")
    law(hub)


@pytest.mark.parametrize("is_async", [False, True])
def test_closing_with_a_hundred_handlers_running(hub, is_async):
    begun, finished, release, never = Log(), Log(), threading.Event(), threading.Event()
    service = em.Service("Billing", delivery="live", concurrency=100, credit=100)

    def handle(body: int) -> None:
        begun.add(body)
        (release if body < 50 else never).wait(PATIENCE)
        finished.add(body)

    if is_async:
        async def handle_async(body: int) -> None:
            begun.add(body)
            while not (release if body < 50 else never).is_set():
                await asyncio.sleep(0.01)
            finished.add(body)

        service.on("order")(handle_async)
    else:
        service.on("order")(handle)
    first = em.connect(hub.address, timeout=PATIENCE)
    with em.connect(hub.address, timeout=PATIENCE) as other:
        service.start(first)
        for number in range(200):
            other.publish("order", number)
        other.flush()
        begun.wait(100)
        wait_for(lambda: hub.status()["services"][0]["counters"]["inFlight"] == 100)
        threading.Timer(0.2, release.set).start()
        drain, began = 1.0, time.monotonic()
        with pytest.raises(em.NotFinished, match="for 50 events; these come to other workers too") as error:
            first.close(drain)
        assert time.monotonic() - began < drain + 1 + (PATIENCE if hub.status()["uptimeSeconds"] > 20 else 5)
        assert error.value.lost == 50
        assert sorted(finished.items) == list(range(50)) and sorted(begun.items) == list(range(100))
        second, came = em.Service("Billing", credit=200), Log()

        @second.on("order")
        def again(body: int, event: em.Event) -> None:
            came.add((body, event.attempt))

        second.start(other)
        # The fifty that were not finished in time, and the hundred that nobody had; none of the finished ones.
        assert sorted(each for each, _ in came.wait(150)) == list(range(50, 200))
        settled(hub, other)
        assert len(came.items) == 150 and all(attempt > 1 for body, attempt in came.items if body < 100)
        second.stop()
    never.set()
    law(hub)


def test_stopping_while_events_come(hub):
    """What came between the daemon's last event and its reading of BYE is handled like the rest."""
    seen, ended = Log(), threading.Event()
    with em.connect(hub.address, timeout=PATIENCE) as sender, em.connect(hub.address, timeout=PATIENCE) as worker:

        def send():
            number = 0
            while not ended.is_set():
                for _ in range(20):
                    sender.publish("order", number)
                    number += 1
                sender.flush(PATIENCE)
                time.sleep(0.01)

        service = em.Service("Billing", credit=64, concurrency=2)

        @service.on("order")
        def handle(body: int) -> None:
            time.sleep(0.0005)
            seen.add(body)

        service.start(worker)
        thread = threading.Thread(target=send)
        thread.start()
        try:
            for _ in range(40):
                count = len(seen.items)
                seen.wait(count + 5)
                service.stop(PATIENCE)  # NotFinished if it didn't wait for what it had
                service.start(worker)
        finally:
            ended.set()
            thread.join(PATIENCE)
        settled(hub, sender)
        service.stop(PATIENCE)
        assert len(seen.items) == len(set(seen.items))
    law(hub)
