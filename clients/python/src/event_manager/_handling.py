"""Who runs handlers: threads."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Callable, Deque, List, Optional, Protocol, Tuple

from ._worker import Delivery, Worker

if TYPE_CHECKING:
    from .service import Service

Finished = Callable[[List[Tuple[Delivery, bytes]]], None]


class Runner(Protocol):
    """Runs handlers, at most `concurrency` at a time."""

    def __init__(self, service: "Service", concurrency: int, worker: Worker, finished: Finished) -> None: ...
    def bind(self, call_soon: Callable[[Callable[[], None]], None]) -> None:
        """How to call the hub's thread."""

    def put(self, deliveries: List[Delivery]) -> None:
        """Runs handlers for these, in their order."""

    def take_back(self) -> List[Delivery]:
        """Those with which no handler has begun, and none will."""

    def stop(self) -> None:
        """Ends when what runs has ended; doesn't wait."""


class Results:
    """Collects what handlers say, for the hub's thread: a call for many of them."""

    def __init__(self, finished: Finished) -> None:
        self._finished = finished
        self._results: Deque[Tuple[Delivery, bytes]] = deque()
        self._called = False
        self.call_soon: Callable[[Callable[[], None]], None] = lambda call: call()

    def add(self, delivery: Delivery, word: bytes) -> None:
        self._results.append((delivery, word))
        if not self._called:
            self._called = True
            self.call_soon(self._hand_over)

    def _hand_over(self) -> None:
        # Only then are they taken, so that none is overlooked.
        self._called = False
        results = [self._results.popleft() for _ in range(len(self._results))]
        self._finished(results)


class ThreadRunner:
    """Threads, one for each handler that may run at a time."""

    def __init__(self, service: "Service", concurrency: int, worker: Worker, finished: Finished) -> None:
        self._service = service
        self._worker = worker
        self._results = Results(finished)
        self._queue: "queue.SimpleQueue[Optional[Delivery]]" = queue.SimpleQueue()
        self._concurrency = concurrency
        for number in range(concurrency):
            threading.Thread(target=self._work, name=f"{service.name}-{number}", daemon=True).start()

    def bind(self, call_soon: Callable[[Callable[[], None]], None]) -> None:
        self._results.call_soon = call_soon

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
        run, add, is_current, now = self._service._run, self._results.add, self._worker.is_current, time.monotonic
        get = self._queue.get
        while True:
            delivery = get()
            if delivery is None:
                return
            if is_current(delivery):
                delivery.begun = now()
                add(delivery, run(delivery))
