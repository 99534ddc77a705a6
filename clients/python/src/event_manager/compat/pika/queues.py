"""What works on a queue: a worker for a consumer or for basic_get, and the messages that it holds."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import Future
from typing import Any, Callable, Dict, Optional, Set

from ... import Retry, Service
from ... import hub as _hub
from ..._event import Event
from ...errors import EventManagerError

log = logging.getLogger("event_manager")


class Requeue(Exception):
    """The event goes back into its queue."""


class Delivery:
    """A message that is not answered yet."""

    def __init__(self, event: "Event[bytes]") -> None:
        self.event = event
        self.answer: "Future[None]" = Future()
        #: Whether the user has it.
        self.taken = False

    def ack(self) -> None:
        if not self.answer.done():
            self.answer.set_result(None)

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class Worker:
    """Takes a queue's messages, for a consumer or for basic_get."""

    def __init__(self, hub: _hub.Hub, queue: str, durable: Optional[bool], prefetch: int, put: Callable[[Delivery], None]) -> None:
        self._put = put
        self._lock = threading.Lock()
        self._open: Set[Delivery] = set()
        self._over = False
        #: The thread in which it ends, when it is cancelled.
        self.leaving = threading.Thread(target=self._stop, args=(86400.0,), daemon=True)
        delivery: Any = None if durable is None else "queue" if durable else "live"
        retry = Retry(max=1_000_000, initial=0.0, jitter=0.0)
        self._service = Service(
            queue, delivery=delivery, credit=prefetch, concurrency=prefetch, retry=retry, max_handling=86400
        )
        self._service.on(queue, dialect="exact")(self._came)
        # What the queue is bound to is the daemon's matter.
        self._service.on_others()(self._came)
        self._service.start(hub)

    async def _came(self, event: "Event[bytes]") -> None:
        delivery = Delivery(event)
        with self._lock:
            if self._over:
                raise Requeue
            self._open.add(delivery)
        self._put(delivery)
        try:
            await asyncio.wrap_future(delivery.answer)
        finally:
            with self._lock:
                self._open.discard(delivery)

    def cancel(self) -> bool:
        """Begins to leave: takes no more. What the user has can still be answered, the rest goes back. Whether the user has some."""
        taken = self._put_back(False)
        self.leaving.start()
        return taken

    def close(self) -> None:
        """Puts back what isn't answered."""
        self._put_back(True)
        self._stop(5.0)

    def _put_back(self, also_taken: bool) -> bool:
        """Whether something is left."""
        with self._lock:
            self._over = True
            left = [each for each in self._open if also_taken or not each.taken]
            kept = [each for each in self._open if each not in left and not each.answer.done()]
        for each in left:
            each.fail(Requeue("not answered before the end"))
        return bool(kept)

    def _stop(self, drain: float) -> None:
        try:
            # The queue's own subscription stays.
            self._service.stop(drain, unsubscribe=True)
        except EventManagerError as error:
            log.warning("queue %s: %s", self._service.name, error)


def waiting(service: Dict[str, Any]) -> int:
    """Messages that wait in a queue for a consumer."""
    durable = service["durable"] or {}
    # Just after the daemon's start, what is on disk isn't counted yet.
    opening = durable.get("state") == "opening"
    return int(service["counters"]["queued"]) + int(durable.get("onDiskOnlyEvents", 0)) + int(opening)
