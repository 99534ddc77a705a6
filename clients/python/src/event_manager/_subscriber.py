"""Plain subscriptions: every event whose subject begins with a text, from now on, while connected."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Callable, Deque, Iterator, List, Optional, Sequence

from . import _check
from ._ask import advice
from ._event import Event
from ._io import HEARTBEAT, Link, Loop
from ._zmtp import Command, Message, Received, ping
from .errors import Closed, Forked, NoAnswer

_MARK = b"subscribe"


class Subscription(Iterator["Event[bytes]"]):
    """The events that come, in their order. It ends when it is closed, or its hub is.

    At most `queue` events of `queue_bytes` together wait to be taken; beyond that `dropped` counts, and the
    oldest or the newest is dropped. Events that pass while there is no connection are not seen.
    """

    def __init__(
        self, loop: Loop, prefixes: Sequence[bytes], queue: int, queue_bytes: int, drop_oldest: bool,
        ended: Callable[["Subscription"], None],
    ) -> None:
        self._loop = loop
        self.link = Link(loop, self, b"XSUB")
        self._prefixes = prefixes
        self._max, self._max_bytes = queue, queue_bytes
        self._drop_oldest = drop_oldest
        self._ended = ended
        self._changed = threading.Condition(threading.Lock())
        self._queue: Deque[Message] = deque()
        self._bytes = 0
        self._waiting = 0
        self._out: List[bytes] = []
        self._subscribed = False
        self._over: Optional[Exception] = None
        self._why = "no connection yet"
        #: Where the daemon answers requests.
        self.where: object = "its address"
        #: Called, by any thread, when there is something to take, or it has ended.
        self.listener: Callable[[], None] = lambda: None
        #: Events that were dropped because they were not taken in time.
        self.dropped = 0

    def wait(self, timeout: float) -> None:
        """Waits until the daemon has subscribed it; NoAnswer after `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._subscribed or self._over, timeout)
            if not self._subscribed:
                raise NoAnswer(f"not subscribed within {timeout} s ({self._why}); {advice(self.where)}", may_be_taken=False)

    def next(self, timeout: Optional[float] = None) -> "Event[bytes]":
        """The next event. NoAnswer if none comes for `timeout` seconds (None: for ever); Closed at the end."""
        deadline = None if timeout is None else time.monotonic() + _check.seconds(timeout)
        with self._changed:
            while not self._queue:
                if self._over is not None:
                    raise self._over
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise NoAnswer(f"no event came for {timeout} s", may_be_taken=False)
                self._waiting += 1
                self._changed.wait(left)
                self._waiting -= 1
            return self._pop()

    def take(self) -> "Optional[Event[bytes]]":
        """The next event if one waits, else None; Closed at the end."""
        with self._changed:
            if self._queue:
                return self._pop()
            if self._over is not None:
                raise self._over
            return None

    def _pop(self) -> "Event[bytes]":
        frames = self._queue.popleft()
        self._bytes -= sum(map(len, frames))
        return Event(frames)

    def __next__(self) -> "Event[bytes]":
        try:
            return self.next()
        except Closed:
            raise StopIteration from None

    def close(self) -> None:
        """Ends it. What came before can still be taken."""
        self.end(Closed("the subscription is closed; subscribe again to go on"))
        self._loop.call_soon(self.link.close)
        self._ended(self)

    def __enter__(self) -> "Subscription":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def end(self, error: Exception) -> None:
        """What `next` raises from now on, when the queue is empty."""
        with self._changed:
            self._over = self._over or error
            self._changed.notify_all()
        self.listener()

    def forked(self) -> None:
        """In a child process: it is the parent's. Nobody else runs here, and the lock may be held for ever."""
        self._changed = threading.Condition(threading.Lock())
        self._queue.clear()
        self._over = Forked("the subscription belongs to the parent process; subscribe in this one")

    # What the link calls.

    def opened(self) -> None:
        self._out = [self.link.peer.subscription(prefix) for prefix in self._prefixes]
        self._out.append(ping(_MARK))

    def received(self, items: List[Received]) -> None:
        with self._changed:
            for item in items:
                if isinstance(item, Command):
                    if item.name == b"PONG" and item.body != HEARTBEAT:
                        self._subscribed = True
                        self._changed.notify_all()
                    continue
                self._keep(item)
            if self._waiting:
                self._changed.notify_all()
        self.listener()

    def _keep(self, frames: Message) -> None:
        size = sum(map(len, frames))
        while self._queue and (len(self._queue) >= self._max or self._bytes + size > self._max_bytes):
            self.dropped += 1
            if not self._drop_oldest:
                return
            self._bytes -= sum(map(len, self._queue.popleft()))
        self._queue.append(frames)
        self._bytes += size

    def more(self) -> bytes:
        out, self._out = self._out, []
        return b"".join(out)

    def closed(self, why: str, unsent: int) -> None:
        self._why = why
