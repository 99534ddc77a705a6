"""Publishing: a bounded buffer, and what the daemon has taken of it."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Callable, Deque, List

from ._io import HEARTBEAT, WRITE_BYTES, Link, Loop
from ._zmtp import Command, Received, ping, subscribed_to
from .errors import Closed, InvalidArgument, MayBeLost, NoAnswer


#: If the loop's thread is woken so many times in a row, each within so many seconds of the one before, it lets other threads go on for a
#: moment: on one processor it takes the interpreter from whoever publishes as soon as there is one event, again and again. Then many come
#: until it has the interpreter back.
KICKS_IN_A_ROW, OFTEN_SECONDS = 4, 0.0003
YIELD_SECONDS = 0.00001


class Publisher:
    """Sends events in their order. All counts are of events since the beginning.

    It is an XPUB: it sends nothing until the daemon has subscribed, so no event is lost for coming early.
    A PING behind the events tells that the daemon has taken all before it.
    """

    def __init__(self, loop: Loop, max_pending_bytes: int) -> None:
        self._loop = loop
        self.link = Link(loop, self, b"XPUB", patient=True)
        self._max_bytes = max_pending_bytes
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._filling: List[bytes] = []  # the newest events, until they are enough for a chunk
        self._full: Deque[List[bytes]] = deque()  # the chunks before them
        self._bytes = 0  # of both
        self._full_at = WRITE_BYTES  # when `_bytes` are so many, the newest are a chunk
        self._waiting = 0  # threads that wait for something to change
        self._kicked = False  # the loop is asked to look
        self._kicked_at = 0.0  # by the monotonic clock
        self._kicks_in_a_row = 0
        self._closed = False
        self._subscribed = False
        self._chunk: List[bytes] = []  # the events that `more` returned last
        self.published = 0
        self.lost = 0
        self._written = 0  # given to a connection
        self._settled = 0  # known to be taken, or counted as lost
        self._marked = 0  # a PING went out behind so many
        self._wanted = 0  # a flush waits for so many
        self._told_published = 0  # at the last flush
        self._told_lost = 0
        self._why = "the connection ended"

    def publish(self, event: bytes, timeout: float) -> None:
        """Takes an encoded message; waits at most `timeout` seconds for room."""
        if self.offer(event):
            return
        deadline = time.monotonic() + timeout
        while not self.offer(event):
            with self._changed:
                self._wait_for_room(len(event), deadline - time.monotonic(), timeout)

    def offer(self, event: bytes) -> bool:
        """Takes an encoded message if there is room for it now; whether it did."""
        with self._lock:  # The condition's own methods would take longer.
            size = self._bytes + len(event)
            if size > self._max_bytes or self._closed:
                return False
            self._bytes = size
            self.published += 1
            self._filling.append(event)
            if size >= self._full_at:
                self._full.append(self._filling)
                self._filling = []
                self._full_at = size + WRITE_BYTES
            if self._kicked:
                return True
            self._kicked = True
        self._loop.call_soon(self._kick)
        return True

    def _wait_for_room(self, size: int, left: float, timeout: float) -> None:
        if size > self._max_bytes:
            raise InvalidArgument(f"an event of {size} bytes is larger than max_pending_bytes ({self._max_bytes}); nothing was sent")

        def free() -> bool:
            return self._bytes + size <= self._max_bytes or self._closed

        if not self._wait(free, left):
            raise NoAnswer(
                f"the daemon takes no events: {self._bytes} bytes wait already, after {timeout} s ({self._why}); "
                f"this event was not taken, so publish it again later",
                may_be_taken=False,
            )
        if self._closed:
            raise Closed("the hub is closed; the event was not taken; connect again to go on")

    def flush(self, timeout: float) -> None:
        """Waits until the daemon has taken what was published; MayBeLost if that isn't sure."""
        with self._changed:
            target = self.published
            self._wanted = max(self._wanted, target)
        self._loop.call_soon(self._kick)
        with self._changed:
            done = self._wait(lambda: self._settled >= target or self._closed, timeout)
            lost = self.lost - self._told_lost
            of = self.published - self._told_published
            why = self._why
            unsettled = max(0, target - self._settled)
            self._told_lost = self.lost
            # What isn't settled is told of again by the next flush.
            self._told_published = self.published - (0 if done else unsettled)
        if not done or unsettled:
            raise MayBeLost(
                lost + unsettled,
                of,
                f"{unsettled} are not confirmed after {timeout} s, and remain in the buffer to be sent ({why})",
            )
        if lost:
            raise MayBeLost(lost, of, why)

    def _wait(self, done: Callable[[], bool], timeout: float) -> bool:
        self._waiting += 1
        try:
            return bool(self._changed.wait_for(done, timeout))
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Ends the waits of others. What is still in the buffer is lost. In the loop's thread."""
        self.link.close()
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _kick(self) -> None:
        self._yield()
        self.link.kick()
        # Only now, so that a link which can't write isn't asked for each event.
        with self._changed:
            self._kicked = False
            again = self._bytes > 0 and self._subscribed
        if again:
            self.link.kick()

    def _yield(self) -> None:
        now = time.monotonic()
        self._kicks_in_a_row = self._kicks_in_a_row + 1 if now - self._kicked_at < OFTEN_SECONDS else 0
        self._kicked_at = now
        if self._kicks_in_a_row >= KICKS_IN_A_ROW:
            self._kicks_in_a_row = 0
            time.sleep(YIELD_SECONDS)

    # What the link calls.

    def opened(self) -> None:
        pass

    def received(self, items: List[Received]) -> None:
        for item in items:
            subscription = subscribed_to(item)
            if subscription is not None:
                self._subscribed = subscription[0]
            elif isinstance(item, Command) and item.name == b"PONG" and item.body != HEARTBEAT and len(item.body) == 8:
                with self._changed:
                    # The link asks for more after this; so the next PING goes out, if events came behind this one.
                    self._settled = max(self._settled, int.from_bytes(item.body, "big"))
                    self._changed.notify_all()

    def more(self) -> bytes:
        if not self._subscribed:
            return b""
        with self._changed:
            if self._full:
                chunk = self._full.popleft()
                self._full_at -= sum(map(len, chunk))
            else:
                chunk, self._filling = self._filling, []
            data = b"".join(chunk)
            self._chunk = chunk
            self._bytes -= len(data)
            self._written += len(chunk)
            if self._waiting and chunk:
                self._changed.notify_all()
            # A PING follows if none is under way, or a flush waits for one.
            if self._marked < self._written and (self._marked == self._settled or self._marked < self._wanted <= self._written):
                self._marked = self._written
                data += ping(self._written.to_bytes(8, "big"))
        return data

    def closed(self, why: str, unsent: int) -> None:
        self._subscribed = False
        with self._changed:
            # Events of which no byte was written are not lost: they are sent on the next connection. A PING
            # may be at the end of the chunk, so it is the beginning that counts.
            self._why = why
            if unsent and self._chunk:
                self._take_back(unsent)
            self._chunk = []
            self.lost += self._written - self._settled
            self._settled = self._marked = self._written
            self._changed.notify_all()

    def _take_back(self, unsent: int) -> None:
        total = sum(map(len, self._chunk))
        if self._marked == self._written:
            total += len(ping(bytes(8)))
        written, start, first = total - unsent, 0, len(self._chunk)
        for at, event in enumerate(self._chunk):
            if start >= written:
                first = at
                break
            start += len(event)
        back = self._chunk[first:]
        if back:
            size = sum(map(len, back))
            self._full.appendleft(back)
            self._full_at += size
            self._bytes += size
        self._written -= len(back)

