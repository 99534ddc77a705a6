"""What a worker says to the daemon, without sockets, threads or clocks: the time is an argument (seconds).

`out` collects messages to write. `wants_subscribe` and `wants_keep_alive` are set when a request is due; whoever sends it
clears them.
"""

from __future__ import annotations

import json
import threading
from typing import Callable, Dict, List, Optional

from ._about import CLIENT
from ._zmtp import SHORT_HEADS, Message, frame, message


_lock = threading.Lock()


class Delivery:
    """An event that this worker holds, until it is settled."""

    __slots__ = ("id", "attempt", "frames", "connection", "begun", "told", "touched", "answered", "keep")

    def __init__(self, id: int, attempt: int, frames: Message, connection: int) -> None:
        self.id = id
        self.attempt = attempt
        self.frames = frames
        self.connection = connection
        #: When a handler began with it.
        self.begun: Optional[float] = None
        #: When the daemon was last told of it.
        self.told = 0.0
        #: Whether its user has said something about it, and whether that was the last word.
        self.touched = False
        self.answered = False
        #: Its handler still runs, so it is held, though the last word was said.
        self.keep = True

    def answer(self, say: "Callable[[Delivery, bytes], None]", word: bytes, rest: bytes = b"") -> bool:
        """Says the last word about it, unless it was said before; whether it did. By any thread."""
        with _lock:
            if self.answered:
                return False
            self.touched = self.answered = True
            say(self, b"%b %d%b" % (word, self.id, rest))
        return True

    def returned(self, word: bytes, later: bool) -> Optional[bytes]:
        """Its handler is done with it, and has this to say, if no last word was said before: what is to be said now. None if
        that comes `later`."""
        with _lock:
            self.keep = False
            if self.answered:
                return b""
            if word or not later:
                self.answered = True
                return word or b"ACK %d" % self.id
            return None


class Worker:
    """One connection to a service's port after the other, and the lease of its subscription. `name` is what the daemon shows of it.

    A delivery whose handler runs gets a WIP at each third of `ack_timeout`, until `max_handling` seconds have gone. The lease
    is prolonged at each third of `lease`.
    """

    def __init__(
        self, *, credit: int, ack_timeout: float, max_handling: float, lease: float = 60.0, name: Optional[str] = None
    ) -> None:
        options: Dict[str, object] = {"ack": True, "credit": credit, "client": CLIENT}
        if name is not None:
            options["name"] = name
        self._ready = message([b"READY " + json.dumps(options, separators=(",", ":")).encode()])
        self.ack_timeout = ack_timeout
        self.max_handling = max_handling
        self.lease = lease
        self.out: List[bytes] = []
        self.wants_subscribe = False
        self.wants_keep_alive = False
        self.held: Dict[int, Delivery] = {}
        self.connected = False
        self.connection = 0
        self.stopping = False
        self._renewed: Optional[float] = None

    def daemon_came(self) -> None:
        """A connection for requests is there: the daemon may be another one, so it is asked to subscribe."""
        self.wants_subscribe = not self.stopping

    def subscribed(self, now: float) -> None:
        """SUBSCRIBE or KEEP_ALIVE was answered with ACK."""
        self._renewed = now

    def lease_lost(self) -> None:
        """KEEP_ALIVE was answered with the NAK `unknown-subscription`."""
        self._renewed = None
        self.wants_subscribe = not self.stopping

    def opened(self) -> None:
        """A connection to the service's port is there. READY comes first, then what could not be said before."""
        self.connected = True
        self.connection += 1
        if not self.stopping:
            self.out.insert(0, self._ready)

    def closed(self) -> None:
        """It ended. What no handler has begun comes to other workers; an answer to the rest may still count."""
        if self.connected:
            self.wants_keep_alive = not self.stopping
        self.connected = False
        self.held = {each.id: each for each in self.held.values() if each.begun is not None}

    def received(self, frames: Message) -> Optional[Delivery]:
        """A message came: the event in it, or None. ValueError, with a sentence, if it is none."""
        words = frames[0].split(b" ", 2)
        if len(words) == 3 and words[0] == b"EVENT" and len(frames) > 1:
            del frames[0]
            number, attempt = words[1:]
            id = int(number)
            self.held[id] = delivery = Delivery(id, 1 if attempt == b"1" else int(attempt), frames, self.connection)
            return delivery
        raise ValueError(frames[0][:200].decode("utf-8", "replace"))

    def is_current(self, delivery: Delivery) -> bool:
        """Whether a handler may begin with it: it hasn't gone to another worker with its connection."""
        return delivery.connection == self.connection and self.connected

    def settle(self, delivery: Delivery, word: bytes) -> None:
        """Says a word about a delivery, such as `ACK 5`; nothing if it is empty, and it is only done. It is held no longer,
        unless its handler still runs."""
        if word and (word.startswith(b"WIP") or (delivery.keep and delivery.answered)):
            self.out.append(frame(word))
            return
        # The same number may be another event by now, after a restart of the daemon.
        if self.held.get(delivery.id) is delivery:
            del self.held[delivery.id]
        if word:
            self.out.append(SHORT_HEADS[len(word)] + word if len(word) < 256 else frame(word))

    def tick(self, now: float) -> None:
        """Says WIP for what is due, and wants KEEP_ALIVE when that is due."""
        if self._renewed is not None and now - self._renewed >= self.lease / 3 and not self.stopping:
            self._renewed = now  # Until it is answered, it isn't due again.
            self.wants_keep_alive = True
        if not self.connected:
            return
        for delivery in self.held.values():
            begun = delivery.begun
            if begun is None or delivery.answered or now - begun >= self.max_handling:
                continue
            if now - max(begun, delivery.told) >= self.ack_timeout / 3:
                delivery.told = now
                self.out.append(message([b"WIP %d" % delivery.id]))

    @property
    def tick_seconds(self) -> float:
        """How often `tick` should be called."""
        return max(0.005, min(1.0, self.ack_timeout / 12, self.lease / 12))

    def stop(self) -> None:
        """Takes no more events: says BYE."""
        self.stopping = True
        self.wants_subscribe = self.wants_keep_alive = False
        if self.connected:
            self.out.append(message([b"BYE"]))
