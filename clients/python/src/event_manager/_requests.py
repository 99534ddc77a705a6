"""Requests to the daemon, many under way at a time, sent again on a new connection."""

from __future__ import annotations

import itertools
import json
import threading
from collections import deque
from concurrent.futures import Future
from typing import Any, Callable, Deque, Dict, List, Optional

from . import _check
from ._ask import advice, answer_of
from ._io import BACKOFF_SECONDS, WRITE_BYTES, Link, Loop, Timer
from ._zmtp import Received, message
from .errors import Closed, InvalidArgument, Nak, NoAnswer

#: Codes of a NAK after which the same request is sent again until its time is over.
TRY_AGAIN = ("busy", "stopping")


class Request:
    """A request under way."""

    __slots__ = ("number", "name", "data", "repeatable", "whole", "answer", "sent", "timer", "pause")

    def __init__(self, number: int, name: str, frames: List[bytes], repeatable: bool, whole: bool) -> None:
        self.number = number
        self.name = name
        self.data = message([number.to_bytes(8, "big"), b"", *frames])
        self.repeatable = repeatable
        self.whole = whole
        self.answer: "Future[Any]" = Future()
        self.sent = False
        self.timer: Optional[Timer] = None
        self.pause = BACKOFF_SECONDS[0]


class Requests:
    """Sends requests; `max_pending_bytes` of them may wait for their answers.

    A repeatable request is sent again on each new connection, and after the NAKs `busy` and `stopping`,
    until it is answered or its time is over.
    """

    def __init__(self, loop: Loop, max_pending_bytes: int, watcher: "Callable[[Optional[str]], None]") -> None:
        self._loop = loop
        self.link = Link(loop, self, b"DEALER")
        self._max_bytes = max_pending_bytes
        #: Called with None when a connection is there, and with the reason when one ended.
        self._watcher = watcher
        self._lock = threading.Lock()
        self._bytes = 0
        self._numbers = itertools.count(1)
        self._by_number: Dict[int, Request] = {}
        self._queue: Deque[Request] = deque()
        self._closed = False
        self._kicked = False
        self.why = "no connection yet"

    def ask(self, fields: Dict[str, Any], timeout: float, *, repeatable: bool = True, whole: bool = False) -> "Future[Any]":
        """Sends a request as JSON. Its future gets the answer's data (or the `whole` answer), or Nak, NoAnswer or Closed."""
        return self.send(str(fields["token"]), [json.dumps(fields, ensure_ascii=False).encode()], timeout, repeatable, whole)

    def send(self, name: str, frames: List[bytes], timeout: float, repeatable: bool, whole: bool = False) -> "Future[Any]":
        """Sends a request of these frames; see `ask`."""
        if _check.seconds(timeout) < 0:
            raise InvalidArgument(f"timeout is 0 seconds or more, not {timeout!r}; nothing was sent")
        size = sum(map(len, frames))
        if size > self._max_bytes:
            raise InvalidArgument(f"a request of {size} bytes is larger than max_pending_bytes ({self._max_bytes}); nothing was sent")
        with self._lock:
            if self._closed:
                raise Closed("the hub is closed; nothing was sent; connect again to go on")
            if self._bytes + size > self._max_bytes:
                raise NoAnswer(
                    f"{self._bytes} bytes of requests wait for answers already ({self.why}); nothing was sent; {self._advice()}",
                    may_be_taken=False,
                )
            request = Request(next(self._numbers), name, frames, repeatable, whole)
            self._bytes += len(request.data)
            self._by_number[request.number] = request
            self._queue.append(request)
            wake, self._kicked = not self._kicked, True
        if wake:
            self._loop.call_soon(self._kick)
        self._loop.call_soon(lambda: self._time(request, timeout))
        return request.answer

    def _time(self, request: Request, timeout: float) -> None:
        if request.number in self._by_number:
            request.timer = self._loop.call_later(timeout, lambda: self._over(request, timeout))

    def _over(self, request: Request, timeout: float) -> None:
        self._fail(
            request,
            NoAnswer(
                f"no answer to {request.name} within {timeout} s ({self.why}); "
                + ("it may have been done" if request.sent else "it was not sent")
                + "; "
                + ("emit it again with the same id" if request.sent and request.name == "emit" else self._advice()),
                may_be_taken=request.sent,
            ),
        )

    def _advice(self) -> str:
        return "try again later" if self.link.open else advice(self.link.endpoint or "the address that the locator tells")

    def _kick(self) -> None:
        with self._lock:
            self._kicked = False
        self.link.kick()

    def close(self) -> None:
        """Ends all that is under way. In the loop's thread."""
        self.link.close()
        with self._lock:
            self._closed = True
            under_way = list(self._by_number.values())
        for request in under_way:
            self._fail(
                request,
                Closed(
                    f"the hub was closed before {request.name} was answered; "
                    + ("it may have been done" if request.sent else "it was not sent")
                    + "; connect again to go on",
                    may_be_taken=request.sent,
                ),
            )

    def _end(self, request: Request) -> bool:
        with self._lock:
            if self._by_number.pop(request.number, None) is None:
                return False
            self._bytes -= len(request.data)
        if request.timer is not None:
            request.timer.cancel()
        # Its user may have given it up.
        return request.answer.set_running_or_notify_cancel()

    def _fail(self, request: Request, error: Exception) -> None:
        if self._end(request):
            request.answer.set_exception(error)

    # What the link calls.

    def opened(self) -> None:
        self.why = "connected"
        with self._lock:
            self._queue = deque(self._by_number.values())
        self._watcher(None)

    def received(self, items: List[Received]) -> None:
        for item in items:
            if not isinstance(item, list) or len(item) < 3:
                continue
            request = self._by_number.get(int.from_bytes(item[0], "big"))
            if request is None:
                continue  # It was given up.
            try:
                data = answer_of(item[2:], request.name, request.whole)
            except Nak as nak:
                if nak.code in TRY_AGAIN and request.repeatable:
                    self._again(request)
                else:
                    self._fail(request, nak)
            except ValueError:
                self._fail(
                    request,
                    NoAnswer(
                        f"the answer to {request.name} can't be read; it may have been done; "
                        f"check that what answers at {self.link.endpoint} is an event manager",
                        may_be_taken=True,
                    ),
                )
            else:
                if self._end(request):
                    request.answer.set_result(data)

    def _again(self, request: Request) -> None:
        def queue() -> None:
            with self._lock:
                if request.number in self._by_number:
                    self._queue.append(request)
            self.link.kick()

        self._loop.call_later(request.pause, queue)
        request.pause = min(request.pause * 2, BACKOFF_SECONDS[1])

    def more(self) -> bytes:
        chunk: List[bytes] = []
        size = 0
        with self._lock:
            while self._queue and size < WRITE_BYTES:
                request = self._queue.popleft()
                if request.number in self._by_number:
                    request.sent = True
                    chunk.append(request.data)
                    size += len(request.data)
        return b"".join(chunk)

    def closed(self, why: str, unsent: int) -> None:
        self.why = why
        with self._lock:
            under_way = list(self._by_number.values())
        for request in under_way:
            if request.sent and not request.repeatable:
                self._fail(
                    request,
                    NoAnswer(
                        f"the connection ended before {request.name} was answered ({why}); it may have been done; ask again if doing it twice is no harm",
                        may_be_taken=True,
                    ),
                )
        self._watcher(why)
