"""A daemon that is killed under load. `just python-kill 200` does it as often as that."""

import collections
import os
import random
import threading
import time

import pytest
from support import PATIENCE, letters, wait_for

import event_manager as em
from event_manager.testing import TestHub

KILLS = int(os.environ.get("EVENT_MANAGER_KILLS", "5"))
#: Seconds after which every worker works again, on a machine that does nothing else.
AGAIN = 1.0


class Handled:
    """What the workers of one service did."""

    def __init__(self, name, is_async):
        self.service = em.Service(name, delivery="queue", credit=16, concurrency=4, retry=em.Retry(max=1000, initial=0.01))
        self.times, self.attempts, self.last = collections.Counter(), collections.defaultdict(list), 0.0
        self.lock, self.chance = threading.Lock(), random.Random(5)

        def handle(body: dict, event: em.Event) -> None:
            with self.lock:
                self.times[body["id"]] += 1
                self.attempts[body["id"]].append(event.attempt)
                self.last = time.monotonic()
                if self.chance.random() < 0.02:
                    raise RuntimeError("sometimes")

        async def handle_async(body: dict, event: em.Event) -> None:
            handle(body, event)

        self.service.on("order.*")(handle_async if is_async else handle)


@pytest.fixture
def hub():
    with TestHub(durable=True) as daemon:
        yield daemon


def test_kills_lose_nothing_that_was_confirmed(hub, capsys):
    handled = [Handled("Threads", False), Handled("Tasks", True)]
    confirmed, failures, stop, lock = set(), [], threading.Event(), threading.Lock()

    def publish(first):
        number = first
        try:
            while not stop.is_set():
                assert publisher.emit("order.new", {"id": number}, id=str(number), level="disk").services == 2
                with lock:
                    confirmed.add(number)
                number += 4
        except BaseException as error:
            failures.append(error)

    with em.connect(hub.address, timeout=PATIENCE) as workers, em.connect(hub.address, timeout=PATIENCE) as publisher:
        for each in handled:
            each.service.start(workers)
        threads = [threading.Thread(target=publish, args=(first,)) for first in range(4)]
        for each in threads:
            each.start()
        again = []
        for _ in range(KILLS):
            # Some work is done between two kills.
            count, done = len(confirmed), [sum(each.times.values()) for each in handled]
            wait_for(lambda: failures or len(confirmed) >= count + 30)
            wait_for(lambda: failures or all(sum(each.times.values()) >= before + 30 for each, before in zip(handled, done)))
            assert not failures
            hub.kill()
            hub.start()
            ready = time.monotonic()
            wait_for(lambda: failures or all(each.last > ready for each in handled))
            again.append(max(each.last for each in handled) - ready)
        stop.set()
        for each in threads:
            each.join(PATIENCE)
        assert failures == []
        hub.wait_idle(PATIENCE)
        for each in handled:
            each.service.stop()
    again.sort()
    with capsys.disabled():
        twice = sum(times > 1 for each in handled for times in each.times.values())
        print(
            f"\n{KILLS} kills: {len(confirmed)} confirmed, {twice} handled more than once, all workers work again after "
            f"{again[len(again) // 2]:.2f} s (median), {again[-1]:.2f} s at most"
        )
    for each in handled:
        assert not confirmed - set(each.times)
        # What came twice had another attempt number than 1 the second time.
        assert all(attempts.count(1) <= 1 for attempts in each.attempts.values())
        assert letters(hub, each.service.name) == []
    assert again[-1] <= (AGAIN if "EVENT_MANAGER_KILLS" in os.environ else PATIENCE)
