"""What the Python client costs: CPU per event, import, and the daemon of tests.

usage: EVENT_MANAGER_BINARY=PATH python benches/figures.py [publish|worker|async|poison|import|hub|hubs ...]

Each figure is measured in five processes of its own; printed are the median, the range and the goal. CPU is that of the client's
process, all its threads. Events are dataclasses of 239 bytes as JSON. A machine that does other things makes all figures larger: the
first line tells what `json.dumps` and `json.loads` of such an event take here.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from typing import Callable, Dict, List, Tuple

ROUNDS = 5
EVENTS = 50_000
_IMPORT = "import event_manager as em; em.connect, em.Service, em.run"


@dataclasses.dataclass
class Order:
    id: int
    customer: str
    total: float
    paid: bool
    note: str


def order(number: int) -> Order:
    return Order(number, "customer-4711", 9.5, True, "x" * 170)


def publish() -> float:
    """CPU µs to publish an event, written as JSON, until it is taken"""
    import event_manager as em
    from event_manager.testing import TestHub

    with TestHub() as daemon, em.connect(daemon.address) as hub:
        orders = [order(number) for number in range(EVENTS)]
        hub.publish("order.created", orders[0])
        hub.flush()
        began = time.process_time()
        for each in orders:
            hub.publish("order.created", each)
        hub.flush(60)
        return (time.process_time() - began) / EVENTS * 1e6


def _worker(is_async: bool) -> float:
    import event_manager as em
    from event_manager.testing import TestHub

    count = 0
    done = threading.Event()
    service = em.Service("Bench", credit=512)

    def handle(body: Order) -> None:
        nonlocal count
        count += 1
        if count == EVENTS:
            done.set()

    async def handle_async(body: Order) -> None:
        handle(body)

    service.on("order.created")(handle_async if is_async else handle)
    with TestHub(config={"budgets": {"serviceQueueEvents": 2 * EVENTS}}) as daemon, em.connect(daemon.address) as hub:
        # A first run makes the queue; what is published while nobody works waits in it.
        service.start(hub)
        service.stop()
        for number in range(EVENTS):
            hub.publish("order.created", order(number))
        hub.flush(60)
        began = time.process_time()
        service.start(hub)
        if not done.wait(60):
            raise SystemExit(f"only {count} of {EVENTS} events came")
        daemon.wait_idle()
        return (time.process_time() - began) / EVENTS * 1e6


def worker() -> float:
    """CPU µs to receive an event, read it, run a function, acknowledge it"""
    return _worker(False)


def asynchronous() -> float:
    """CPU µs for the same with an async function"""
    return _worker(True)


def poison() -> float:
    """% more CPU, of client and daemon, for the same events of others if three of 2,000 can't be handled: what they lose of throughput"""
    import logging

    import event_manager as em
    from event_manager.testing import TestHub

    logging.getLogger("event_manager").addHandler(logging.NullHandler())
    handled = threading.Semaphore(0)
    service = em.Service("Bench", concurrency=4, credit=512, retry=em.Retry(max=3, initial=0.01))

    @service.on("order.*")
    def handle(body: Order) -> None:
        if body.id == -1:
            raise em.Reject("poison")
        if body.id == -2:
            raise OSError("poison")
        if body.id == EVENTS:
            handled.release()

    with TestHub(durable=True, config={"budgets": {"serviceQueueEvents": 2 * EVENTS}}) as daemon, em.connect(daemon.address) as hub:
        service.start(hub)
        orders = [order(number) for number in range(1, EVENTS + 1)]

        def cpu() -> float:
            with open(f"/proc/{daemon.pid}/stat") as file:
                times = file.read().rpartition(")")[2].split()[11:13]
            return time.process_time() + sum(map(int, times)) / os.sysconf("SC_CLK_TCK")

        def run(poisoned: bool) -> float:
            began = cpu()
            for number, each in enumerate(orders):
                hub.publish("order.created", each)
                if poisoned and number % 2000 == 0:
                    hub.publish("order.created", order(-1))
                    hub.publish("order.created", order(-2))
                    hub.publish("order.created", b"no JSON")
            if not handled.acquire(timeout=60):
                raise SystemExit("the last event did not come")
            daemon.wait_idle()
            return cpu() - began

        pairs = [(run(False), run(True)) for _ in range(15)]
        return 100 * (statistics.median(poisoned / clean for clean, poisoned in pairs) - 1)


def imported() -> float:
    """CPU ms to import all that a service needs, beyond an empty program"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def cost(program: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", program], check=True, env=environment)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    cost(_IMPORT)  # compiles it
    pairs = [(cost(_IMPORT), cost("pass")) for _ in range(9)]
    return (statistics.median(each for each, _ in pairs) - statistics.median(each for _, each in pairs)) * 1e3


def hub() -> float:
    """ms until a TestHub is ready, the 95th percentile of 100"""
    from event_manager.testing import TestHub

    took: List[float] = []
    for _ in range(100):
        began = time.perf_counter()
        daemon = TestHub()
        took.append(time.perf_counter() - began)
        daemon.close()
    return statistics.quantiles(took, n=20)[18] * 1e3


def hubs() -> float:
    """s for 100 tests that each have a TestHub, a connection and an event"""
    import event_manager as em
    from event_manager.testing import TestHub

    began = time.perf_counter()
    for _ in range(100):
        with TestHub() as daemon, em.connect(daemon.address) as client, client.subscribe("order.") as events:
            client.publish("order.created", order(1))
            events.next(timeout=10)
    return time.perf_counter() - began


def _json_cost() -> float:
    body = dataclasses.asdict(order(1))
    rounds = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(20_000):
            json.loads(json.dumps(body))
        rounds.append((time.process_time() - began) / 20_000 * 1e6)
    return statistics.median(rounds)


FIGURES: Dict[str, Tuple[Callable[[], float], float]] = {
    "publish": (publish, 3),
    "worker": (worker, 8),
    "async": (asynchronous, 12),
    "poison": (poison, 5),
    "import": (imported, 60),
    "hub": (hub, 20),
    "hubs": (hubs, 10),
}


def main(names: List[str]) -> int:
    if len(names) == 2 and names[0] == "--once":
        print(FIGURES[names[1]][0]())
        return 0
    unknown = [each for each in names if each not in FIGURES]
    if unknown:
        print(f"{__doc__}\nunknown: {', '.join(unknown)}", file=sys.stderr)
        return 2
    print(f"json    {_json_cost():8.2f}  CPU µs for json.loads(json.dumps(event)), for comparison", flush=True)
    for name in names or list(FIGURES):
        call, goal = FIGURES[name]
        rounds = sorted(
            float(subprocess.run([sys.executable, __file__, "--once", name], check=True, stdout=subprocess.PIPE).stdout)
            for _ in range(ROUNDS)
        )
        middle = statistics.median(rounds)
        verdict = "ok" if middle <= goal else "MISSED"
        print(f"{name:8} {middle:7.2f}  ({rounds[0]:.2f} to {rounds[-1]:.2f}; goal {goal})  {verdict:7} {call.__doc__}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
