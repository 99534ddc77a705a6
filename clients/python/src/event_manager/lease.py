"""Leases: of several programs, one at a time does what only one may do.

    with hub.lease("scheduler") as lease:
        while lease.held:
            do_a_little(token=lease.token)
"""

from __future__ import annotations

import json
import logging
import os
import random
import socket
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional

from . import _check
from .errors import Closed, EventManagerError, InvalidArgument, LeaseLost, Nak, NoAnswer

if TYPE_CHECKING:
    from ._core import Core
    from ._io import Timer
    from .hub import Hub

log = logging.getLogger("event_manager")

#: A lease's seconds, as the daemon allows them.
TTL_SECONDS = (0.1, 3600.0)
#: The longest name, in bytes of UTF-8.
_NAME_BYTES_MAX = 255
#: Codes of NAKs after which it is worth asking again.
_PASSING = ("held", "store-failed", "engine-failed", "busy", "full")


def _clock() -> float:
    """Seconds by a clock that nobody sets, and that goes on while the machine is suspended, where the system has one."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


def default_holder() -> str:
    """What a program calls itself if it isn't told: no two are the same."""
    return f"{socket.gethostname()[:128]}:{os.getpid()}:{os.urandom(4).hex()}"


class Lease:
    """A lease, which is renewed in the background as long as it is held; see `Hub.lease`.

    It is over when it can't be renewed in time: `held` says so by the clock, a moment before the daemon gives it to another.
    Whoever is stopped between a look at `held` and what follows doesn't know; so give `token` along with what you write, and let
    what keeps it refuse a lower one than it has seen.
    """

    def __init__(
        self, hub: "Hub", name: str, *, ttl: float, holder: Optional[str], wait: Optional[float], on_lost: Optional[Callable[[], None]]
    ) -> None:
        _check.text(name, "a lease's name", _NAME_BYTES_MAX)
        _check.number(ttl, "ttl", *TTL_SECONDS, " seconds")
        self._ttl = float(ttl)
        self.name = name
        self.holder = default_holder() if holder is None else holder
        _check.text(self.holder, "a holder", _NAME_BYTES_MAX)
        self._hub = hub
        self._wait = wait
        self._on_lost = on_lost
        #: Set when it is not held any more, though it was not released.
        self.lost = threading.Event()
        self._lock = threading.Lock()
        self._token = 0
        self._until = 0.0
        self._pid = 0
        self._core: "Optional[Core]" = None
        self._timers: "List[Timer]" = []

    @property
    def held(self) -> bool:
        """Whether it is held now. A child process doesn't hold its parent's."""
        return self._token != 0 and not self.lost.is_set() and self._pid == os.getpid() and _clock() < self._until

    @property
    def token(self) -> int:
        """The number that it was given, higher than all before; 0 if it isn't held."""
        return self._token if self.held else 0

    @property
    def left(self) -> float:
        """Seconds for which it is held for certain; 0 if it isn't."""
        return max(0.0, self._until - _clock()) if self.held else 0.0

    def check(self) -> int:
        """The token; LeaseLost if it is not held."""
        token = self.token
        if token == 0:
            raise LeaseLost(f"the lease {self.name} is not held (any more); another may do what it protects; acquire it again to go on")
        return token

    def acquire(self, wait: Optional[float] = None) -> bool:
        """Waits until it is held, for at most `wait` seconds (None: for ever; 0 asks once). Whether it is."""
        deadline = None if wait is None else _clock() + _check.seconds(wait)
        while True:
            asked_at, answer = self._ask_for(deadline)
            try:
                if self._take(asked_at, answer.result()):
                    return True
            except (Nak, NoAnswer) as error:
                self._judge(error)
            left = None if deadline is None else deadline - _clock()
            if left is not None and left <= 0:
                return False
            pause = self._pause()
            time.sleep(pause if left is None else min(pause, left))

    def _pause(self) -> float:
        """Until it is asked for again: the daemon doesn't tell when another has released it."""
        return min(1.0, self._ttl / 5) * random.uniform(0.8, 1.2)

    def _judge(self, error: EventManagerError) -> None:
        """Whether it is worth asking again; else it is raised."""
        if isinstance(error, Nak) and error.code not in _PASSING:
            raise error

    def _ask_for(self, deadline: Optional[float]) -> "tuple[float, Future[Any]]":
        with self._lock:
            if self.held:
                raise InvalidArgument(f"the lease {self.name} is held already; make another object for another holder")
            self._core = self._hub._alive()
        asked_at = _clock()
        # An answer that comes later is of no use.
        patience = self._ttl if deadline is None else min(self._ttl, max(0.1, deadline - asked_at))
        return asked_at, self._core.requests.ask(self._fields("acquire", ttlMs=round(self._ttl * 1000)), patience)

    def _fields(self, op: str, **more: Any) -> Dict[str, Any]:
        return {"token": "lease", "op": op, "name": self.name, "holder": self.holder, **more}

    def _take(self, asked_at: float, answer: Any) -> bool:
        """It was given, if its time isn't over already."""
        told = json.loads(answer) if isinstance(answer, str) else answer
        with self._lock:
            self._token = int(told["token"])
            self._until = asked_at + self._ttl
            self._pid = os.getpid()
            self.lost.clear()
            if not self.held:
                self._token = 0
                return False
        assert self._core is not None
        self._core.loop.call_soon(self._begin)
        return True

    # In the hub's thread.

    def _begin(self) -> None:
        self._later(self._ttl / 3, self._renew)
        self._watch()

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        assert self._core is not None
        self._timers = [each for each in self._timers if each.call is not None]
        self._timers.append(self._core.loop.call_later(seconds, call))

    def _watch(self) -> None:
        """Tells when its time is over."""
        if self._token == 0 or self.lost.is_set():
            return
        left = self._until - _clock()
        if left > 0:
            self._later(left, self._watch)
        else:
            self._lose("it could not be renewed in time")

    def _renew(self) -> None:
        token = self._token
        if token == 0 or self.lost.is_set():
            return
        asked_at = _clock()
        assert self._core is not None
        try:
            answer = self._core.requests.ask(self._fields("renew", leaseToken=token), self._ttl)
        except EventManagerError as error:
            if not isinstance(error, Closed):
                self._later(self._ttl / 6, self._renew)
            return
        answer.add_done_callback(lambda answer: self._renewed(token, asked_at, answer))

    def _renewed(self, token: int, asked_at: float, answer: "Future[Any]") -> None:
        error = answer.exception()
        if token != self._token or self.lost.is_set():
            return
        if error is None:
            # Counted from when it was asked for: the daemon counts from later.
            self._until = max(self._until, asked_at + self._ttl)
            self._later(self._ttl / 3, self._renew)
        elif isinstance(error, Nak) and error.code == "lost":
            self._lose(error.sentence)
        elif not isinstance(error, Closed):
            self._later(self._ttl / 6, self._renew)

    def _lose(self, why: str) -> None:
        with self._lock:
            if self._token == 0 or self.lost.is_set():
                return
            self.lost.set()
        log.warning("the lease %s is lost: %s", self.name, why)
        if self._on_lost is not None:
            try:
                self._on_lost()
            except Exception:
                log.exception("on_lost of the lease %s failed", self.name)

    def release(self) -> None:
        """Gives it back, so that another needn't wait until its time is over. Does nothing if it isn't held."""
        released = self._release()
        if released is not None:
            try:
                released.result()
            except EventManagerError as error:
                log.info("the lease %s was not released, and ends by itself: %s", self.name, error)

    def _release(self) -> "Optional[Future[Any]]":
        with self._lock:
            token, was_held = self._token, self.held
            self._token = 0
        for timer in self._timers:
            timer.cancel()
        if not was_held or self._core is None:
            return None
        try:
            return self._core.requests.ask(self._fields("release", leaseToken=token), min(self._ttl, self._hub.timeout))
        except EventManagerError as error:
            log.info("the lease %s was not released, and ends by itself: %s", self.name, error)
            return None

    def __enter__(self) -> "Lease":
        if not self.acquire(self._wait):
            raise NoAnswer(f"the lease {self.name} was not free for {self._wait} s; try again later", may_be_taken=False)
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        was_held = self.held
        self.release()
        if kind is None and not was_held:
            raise LeaseLost(
                f"the lease {self.name} was lost meanwhile; another may have done the same; check what was done without it"
            )


__all__ = ["Lease"]
