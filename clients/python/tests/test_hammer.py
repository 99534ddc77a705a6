"""Many threads, tasks and a child process on one hub. `just python-hammer 600` does it for as many seconds."""

import asyncio
import collections
import gc
import os
import random
import threading
import time
import traceback

from support import PATIENCE, law, wait_for

import event_manager as em
from event_manager import aio
from event_manager.testing import TestHub

SECONDS = float(os.environ.get("EVENT_MANAGER_HAMMER_SECONDS", "4"))
THREADS = 32


def resident_kib():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE") // 1024


def descriptors():
    return len(os.listdir("/proc/self/fd"))


class Hammer:
    def __init__(self, hub):
        self.hub = hub
        self.stop = threading.Event()
        self.failures = []
        self.done = collections.Counter()
        self.handled = collections.Counter()

    def guarded(self, function, *arguments):
        try:
            function(*arguments)
        except BaseException:
            self.failures.append(traceback.format_exc())
            self.stop.set()

    def thread(self, number):
        chance = random.Random(number)
        acts = [self.publish, self.emit, self.subscribe, self.status, self.call, self.work]
        while not self.stop.is_set():
            act = chance.choices(acts, (20, 10, 2, 3, 2, 1))[0]
            act(number, chance)
            self.done[act.__name__] += 1

    def publish(self, number, chance):
        for _ in range(20):
            self.hub.publish(f"order.{number}", {"id": number, "text": "x" * chance.randrange(2000)})
        if chance.random() < 0.2:
            self.hub.flush(PATIENCE)

    def emit(self, number, chance):
        self.hub.emit(f"order.{number}", b"x" * chance.randrange(5000), headers={"x-n": "1"} if chance.random() < 0.5 else None)

    def subscribe(self, number, chance):
        with self.hub.subscribe(f"order.{number}", queue=100) as events:
            self.hub.publish(f"order.{number}", b"look")
            events.next(PATIENCE)

    def status(self, number, chance):
        assert self.hub.status()["draining"] is False

    def call(self, number, chance):
        try:
            self.hub.call(f"nobody.{number}", b"?", timeout=PATIENCE)
        except em.NoResponders:
            return
        raise AssertionError("nobody answered")

    def work(self, number, chance):
        service = em.Service(f"Thread {number}", concurrency=2)

        @service.on(f"order.{number}")
        def handle(body: bytes, event: em.Event) -> None:
            self.handled[number] += 1
            if chance.random() < 0.01:
                raise em.Reject("sometimes")

        service.start(self.hub)
        time.sleep(chance.random() / 10)
        service.stop(PATIENCE, unsubscribe=True)

    async def tasks(self):
        async with aio.connect(self.hub.address, timeout=PATIENCE) as hub:
            service = em.Service("Tasks", concurrency=16)

            @service.on("task.*")
            async def handle(body: dict) -> None:
                self.handled["tasks"] += 1

            async def one(number):
                while not self.stop.is_set():
                    await hub.publish(f"task.{number}", {"id": number})
                    await hub.emit(f"task.{number}", {"id": number})
                    self.done["task"] += 1

            await hub.start(service)
            await asyncio.gather(*(one(number) for number in range(8)))
            await hub.flush(PATIENCE)
            await hub.stop(service, PATIENCE)

    def child(self):
        """A fork in the middle: the child uses the same hub. It must not leave by pytest's ways."""
        process = os.fork()
        if process == 0:
            code = 1
            try:
                for number in range(50):
                    self.hub.publish("child.a", b"%d" % number)
                self.hub.flush(PATIENCE)
                self.hub.emit("child.b", b"1")
                self.hub.close()
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0 if hasattr(os, "waitstatus_to_exitcode") else True
        self.done["child"] += 1


def test_hammer(capsys):
    with TestHub() as daemon, em.connect(daemon.address, timeout=PATIENCE) as hub:
        before = descriptors()
        hammer = Hammer(hub)
        threads = [threading.Thread(target=hammer.guarded, args=(hammer.thread, number)) for number in range(THREADS)]
        threads.append(threading.Thread(target=hammer.guarded, args=(lambda: asyncio.run(hammer.tasks()),)))
        for each in threads:
            each.start()
        end = time.monotonic() + SECONDS
        warm = None
        while time.monotonic() < end and not hammer.stop.wait(SECONDS / 20):
            if time.monotonic() > end - SECONDS / 2:
                warm = warm or (resident_kib(), time.monotonic())
            hammer.guarded(hammer.child)
        peak = resident_kib()
        hammer.stop.set()
        for each in threads:
            each.join(PATIENCE)
        assert hammer.failures == [], hammer.failures[0]
        assert not any(each.is_alive() for each in threads)
        hub.flush(PATIENCE)
        daemon.wait_idle(PATIENCE)
        law(daemon)
        # The loop's thread closes what was subscribed when it has its turn.
        wait_for(lambda: descriptors() <= before + 8)
        grown = peak - warm[0]
        with capsys.disabled():
            print(
                f"\n{SECONDS:.0f} s: {dict(hammer.done)}, {sum(hammer.handled.values())} handled; "
                f"RSS {warm[0]} KiB at half time, {peak} at the end; descriptors {before} before, {descriptors()} after"
            )
        if "EVENT_MANAGER_HAMMER_SECONDS" in os.environ:
            assert grown < 4096, f"RSS grew by {grown} KiB in the second half"


def test_nothing_is_kept_of_what_has_ended(hub, connected):
    def act(number):
        service = em.Service(f"S{number % 4}")
        service.on("order.*")(lambda body: None)
        service.start(connected)
        with connected.subscribe("order.") as events:
            connected.publish("order.new", b"1")
            events.next(PATIENCE)
        service.stop(PATIENCE, unsubscribe=True)

    def objects():
        gc.collect()
        return len(gc.get_objects())

    for number in range(50):
        act(number)
    before = objects()
    for number in range(200):
        act(number)
    # What ticks holds its service for another second; and of timers that were taken back, up to 1024 remain.
    wait_for(lambda: objects() - before < 2500)
