"""Whether the Python client keeps something of what it does: memory per operation, by a line through many rests.

usage: EVENT_MANAGER_BINARY=PATH python benches/leaks.py [publish|flush|emit|worker|call|answer|subscribe|service|hub|request|refused ...]

Each operation runs in a process of its own, in one thread: rounds of the same number of operations, and a rest after each, in which
all that Python can collect is collected. Printed are the slopes with their 95 % intervals: blocks that Python has allocated
(`sys.getallocatedblocks`) per 1000 operations, and bytes of resident memory per operation. An interval without 0 above it is a leak;
that of an operation which keeps one object each time is 1000 blocks.
"""

from __future__ import annotations

import array
import gc
import heapq
import os
import statistics
import subprocess
import sys
import threading
import time
from typing import Callable, Dict, List, Sequence, Tuple

import event_manager as em
from event_manager.testing import TestHub

ROUNDS = 30
#: Rounds that are not looked at: caches fill, and the allocator has its peak.
WARM = 10
#: Student's t for 95 % and as many rounds.
_T = 2.05

Act = Callable[[], None]


def _publish(daemon: TestHub, hub: em.Hub) -> Tuple[Act, int]:
    def act() -> None:
        hub.publish("order.created", {"id": 1, "text": "x" * 200}, headers={"a": "b"})

    return act, 20_000


def _flush(daemon: TestHub, hub: em.Hub) -> Tuple[Act, int]:
    def act() -> None:
        hub.publish("order.created", b"1")
        hub.flush()

    return act, 2000


def _emit(daemon: TestHub, hub: em.Hub) -> Tuple[Act, int]:
    def act() -> None:
        hub.emit("order.created", b"1", headers={"a": "b"})

    return act, 2000


def _worker(daemon: TestHub, hub: em.Hub) -> Tuple[Act, int]:
    service, room = em.Service("Bench", credit=512), threading.Semaphore(512)

    @service.on("order.created")
    def handle(body: Dict[str, int], event: em.Event[Dict[str, int]]) -> None:
        room.release()

    def act() -> None:
        room.acquire()
        hub.publish("order.created", {"id": 1})

    service.start(hub)
    return act, 10_000


def _call(daemon: TestHub, hub: em.Hub) -> Tuple[Act, int]:
    def act() -> None:
        try:
            hub.call("nobody", {"id": 1})
        except em.NoResponders:
            pass

    return act, 2000


def _answer(daemon: TestHub, hub: em.Hub) -> Tuple[Act, int]:
    service = em.Service("Prices")
    service.answers("price")(lambda body: body)
    service.start(hub)

    def act() -> None:
        hub.call("price", {"id": 1})

    return act, 500


def _subscribe(daemon: TestHub, hub: em.Hub) -> Tuple[Act, int]:
    def act() -> None:
        with hub.subscribe("order.") as events:
            hub.publish("order.created", b"1")
            events.next(30)

    return act, 200


def _service(daemon: TestHub, hub: em.Hub) -> Tuple[Act, int]:
    def act() -> None:
        service = em.Service("Bench")
        service.on("order.created")(lambda body: None)
        service.start(hub)
        service.stop(unsubscribe=True)

    return act, 100


def _hub(daemon: TestHub, hub: em.Hub) -> Tuple[Act, int]:
    def act() -> None:
        with em.connect(daemon.address) as other:
            other.publish("order.created", b"1")
            other.flush()

    return act, 100


def _request(daemon: TestHub, hub: em.Hub) -> Tuple[Act, int]:
    def act() -> None:
        hub.status()

    return act, 1000


def _refused(daemon: TestHub, hub: em.Hub) -> Tuple[Act, int]:
    def act() -> None:
        try:
            hub.request({"token": "keep_alive", "id": "nobody"})
        except em.Nak:
            pass

    return act, 2000


KINDS: Dict[str, Callable[[TestHub, em.Hub], Tuple[Act, int]]] = {
    "publish": _publish, "flush": _flush, "emit": _emit, "worker": _worker, "call": _call, "answer": _answer,
    "subscribe": _subscribe, "service": _service, "hub": _hub, "request": _request, "refused": _refused,
}  # fmt: skip


def slope(ys: Sequence[float]) -> Tuple[float, float]:
    """The slope of a line through these, at 0, 1, 2, …, and half of its 95 % interval."""
    middle, mean = (len(ys) - 1) / 2, statistics.fmean(ys)
    spread = sum((x - middle) ** 2 for x in range(len(ys)))
    rise = sum((x - middle) * (y - mean) for x, y in enumerate(ys)) / spread
    error = sum((y - mean - rise * (x - middle)) ** 2 for x, y in enumerate(ys)) / (len(ys) - 2)
    return rise, float(_T * (error / spread) ** 0.5)


_STATM = os.open("/proc/self/statm", os.O_RDONLY)  # once: each `open` would leave a block behind
_PAGE = os.sysconf("SC_PAGESIZE")


def _resident() -> int:
    return int(os.pread(_STATM, 100, 0).split()[1]) * _PAGE


def _forget_timers(hub: em.Hub) -> None:
    """Takes those away that were taken back: up to 1024 remain else, which is all that could be seen."""
    loop, done = hub._alive().loop, threading.Event()

    def forget() -> None:
        loop._timers = [each for each in loop._timers if each[2].call is not None]
        heapq.heapify(loop._timers)
        done.set()

    loop.call_soon(forget)
    done.wait(30)


def measure(kind: str) -> None:
    blocks, resident = (array.array("d", bytes(8 * (WARM + ROUNDS))) for _ in "12")  # else these would grow, too
    with TestHub() as daemon, em.connect(daemon.address, timeout=30) as hub:
        act, count = KINDS[kind](daemon, hub)
        for number in range(WARM + ROUNDS):
            for _ in range(count):
                act()
            hub.flush(60)
            daemon.wait_idle(60)
            time.sleep(1.5 if kind == "service" else 0.05)  # what ticks holds a service until then
            _forget_timers(hub)
            gc.collect()
            blocks[number] = sys.getallocatedblocks()
            resident[number] = _resident()
    (rise, about), (grown, around) = slope(blocks[WARM:]), slope(resident[WARM:])
    print(
        f"{kind:10} {ROUNDS * count:7} operations   {rise / count * 1000:8.2f} ± {about / count * 1000:.2f} blocks per 1000   "
        f"{grown / count:8.2f} ± {around / count:.2f} bytes resident each",
        flush=True,
    )


def main(names: List[str]) -> int:
    if len(names) == 2 and names[0] == "--once":
        measure(names[1])
        return 0
    unknown = [each for each in names if each not in KINDS]
    if unknown:
        print(f"{__doc__}\nunknown: {', '.join(unknown)}", file=sys.stderr)
        return 2
    for name in names or list(KINDS):
        subprocess.run([sys.executable, __file__, "--once", name], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
