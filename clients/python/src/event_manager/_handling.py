"""Who runs handlers: threads."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from typing import Callable, Deque, List, Optional, Protocol, Tuple

from ._execution import Execution
from ._worker import Delivery, Worker

Finished = Callable[[List[Tuple[Delivery, bytes]]], None]


class Runner(Protocol):
    """Runs handlers, at most `concurrency` at a time."""

    def put(self, deliveries: List[Delivery]) -> None:
        """Runs handlers for these, in their order."""

    def take_back(self) -> List[Delivery]:
        """Those with which no handler has begun, and none will."""
        ...

    def stop(self) -> None:
        """Ends when what runs has ended; doesn't wait."""


class Results:
    """Collects what handlers say, for the hub's thread: a call for many of them."""

    def __init__(self, finished: Finished, call_soon: Callable[[Callable[[], None]], None]) -> None:
        self._finished = finished
        self._results: Deque[Tuple[Delivery, bytes]] = deque()
        self._called = False
        self._call_soon = call_soon

    def add(self, delivery: Delivery, word: bytes) -> None:
        """Takes a word about a delivery; see `Worker.settle`. By any thread."""
        self._results.append((delivery, word))
        if not self._called:
            self._called = True
            self._call_soon(self._hand_over)

    def _hand_over(self) -> None:
        # Only then are they taken, so that none is overlooked.
        self._called = False
        results = [self._results.popleft() for _ in range(len(self._results))]
        self._finished(results)


class ThreadRunner:
    """Threads, one for each handler that may run at a time."""

    def __init__(self, name: str, concurrency: int, worker: Worker, results: Results, execution: Execution) -> None:
        self._worker = worker
        self._results = results
        self._execution = execution
        self._queue: "queue.SimpleQueue[Optional[Delivery]]" = queue.SimpleQueue()
        self._concurrency = concurrency
        for number in range(concurrency):
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True).start()

    def put(self, deliveries: List[Delivery]) -> None:
        for each in deliveries:
            self._queue.put(each)

    def take_back(self) -> List[Delivery]:
        taken: List[Delivery] = []
        while True:
            try:
                delivery = self._queue.get_nowait()
            except queue.Empty:
                return taken
            if delivery is not None and self._worker.is_current(delivery):
                taken.append(delivery)

    def stop(self) -> None:
        for _ in range(self._concurrency):
            self._queue.put(None)

    def _work(self) -> None:
        run, add, is_current, now = self._execution.run, self._results.add, self._worker.is_current, time.monotonic
        get = self._queue.get
        while True:
            delivery = get()
            if delivery is None:
                return
            if is_current(delivery):
                delivery.begun = now()
                word = run(delivery)
                if word is not None:
                    add(delivery, word)
