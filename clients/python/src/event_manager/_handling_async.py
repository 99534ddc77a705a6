"""Who runs handlers: tasks of one event loop."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections import deque
from typing import Any, Callable, Deque, List, Optional

from ._execution import Execution
from ._handling import Results
from ._worker import Delivery, Worker

#: Handlers that never wait run so many times before other tasks have their turn.
_TURN = 64


class AsyncRunner:
    """Tasks of an event loop: the given one, or one in a thread of its own. Handlers that aren't async run in threads."""

    def __init__(
        self,
        name: str,
        concurrency: int,
        worker: Worker,
        results: Results,
        execution: Execution,
        loop: Optional[asyncio.AbstractEventLoop] = None,
    ) -> None:
        self._worker = worker
        self._results = results
        self._execution = execution
        self._waiting: Deque[Delivery] = deque()
        self._free = concurrency
        self._tasks: "set[asyncio.Task[None]]" = set()
        self._stopping = False
        self._own = loop is None
        self._loop = asyncio.new_event_loop() if loop is None else loop
        if self._own:
            threading.Thread(target=self._serve, name=f"{name}-asyncio", daemon=True).start()

    def put(self, deliveries: List[Delivery]) -> None:
        self._waiting.extend(deliveries)
        try:
            self._loop.call_soon_threadsafe(self._start)
        except RuntimeError:  # The user's loop is closed, without the service being stopped.
            self._waiting.clear()

    def take_back(self) -> List[Delivery]:
        taken = []
        while self._waiting:
            try:
                delivery = self._waiting.popleft()
            except IndexError:  # A task was faster.
                break
            if self._worker.is_current(delivery):
                taken.append(delivery)
        return taken

    def stop(self) -> None:
        if self._own:
            self._loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        self._stopping = True
        if not self._tasks:
            self._loop.stop()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def _start(self) -> None:
        for _ in range(min(self._free, len(self._waiting))):
            self._free -= 1
            task = self._loop.create_task(self._work())
            self._tasks.add(task)
            task.add_done_callback(self._done)

    async def _work(self) -> None:
        """Handles one event after the other while some wait: a task for each would cost more than most handlers."""
        count = 0
        while self._waiting:
            try:
                delivery = self._waiting.popleft()
            except IndexError:  # It was taken back.
                return
            if not self._worker.is_current(delivery):
                continue
            delivery.begun = time.monotonic()
            word = await self._execution.run_async(delivery, self._in_thread)
            if word is not None:
                self._results.add(delivery, word)
            count += 1
            if count % _TURN == 0:
                await asyncio.sleep(0)

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await self._loop.run_in_executor(None, functools.partial(function, *arguments))

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._free += 1
        self._tasks.discard(task)
        self._start()
        if self._stopping and not self._tasks:
            self._loop.stop()
