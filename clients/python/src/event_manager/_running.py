"""A service at work, over a hub's connections."""

from __future__ import annotations

import functools
import itertools
import logging
import os
import socket
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Tuple

from . import _address
from ._core import Core
from ._execution import Execution
from ._handling import Results, Runner, ThreadRunner
from ._io import Link
from ._worker import Delivery, Worker
from ._zmtp import Command, Received, ping
from .errors import Closed, EventManagerError, Nak, NotFinished, TooOld

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from ._answers import Answers
    from .hub import Hub
    from .service import Service

log = logging.getLogger("event_manager")

_numbers = itertools.count()
#: NAKs of SUBSCRIBE that may be over after a while.
_PASSING = ("no-port", "store-failed", "too-many-subscriptions", "busy", "stopping")
_STOPPED = b"stopped"
#: A daemon's own, if it is too old to be told.
_OLD_ACK_TIMEOUT = 30.0
_OLD_MAX_DELIVERIES = 8


class Running:
    """A service at work: it moves what the `Worker` says to the connections, and events to the handlers."""

    def __init__(
        self, service: "Service", hub: "Hub", aio: "Optional[AbstractEventLoop]", letters_are_at: Callable[[str], None]
    ) -> None:
        self.service = service
        self._letters_are_at = letters_are_at
        self.core: Core = hub._alive()
        self.subscribed = threading.Event()  # or refused
        self.failure: Optional[Exception] = None
        self.worker = Worker(**service._options, name=self.core.name)
        #: What the daemon is asked for with SUBSCRIBE.
        self._terms = {name: value for name, value in service._terms.items() if value is not None}
        self.link = Link(self.core.loop, self, b"DEALER")
        # A service that is started again renews the subscription that it had.
        if service._id is None:
            name = f"{service.name}@{socket.gethostname()}:{os.getpid()}.{next(_numbers)}"
            service._id = name if len(name.encode()) <= 255 else os.urandom(16).hex()
        self.id = service._id
        results = Results(self._finished, self.core.loop.call_soon)
        execution = Execution(service, self.core.told, results.add)
        self.runner: Runner
        if any(each.is_async for each in service._all_handlers()):
            # Only now, because importing asyncio takes longer than all the rest.
            from ._handling_async import AsyncRunner

            self.runner = AsyncRunner(service.name, service._concurrency, self.worker, results, execution, aio)
        else:
            self.runner = ThreadRunner(service.name, service._concurrency, self.worker, results, execution)
        self.answers: "Optional[Answers]" = None
        if service._answering:
            from ._answers import Answers

            self.answers = Answers(service, self.core, execution, aio)
            self.core.loop.call_soon(self.answers.register)
        self._idle = threading.Event()
        self._told = threading.Event()
        self._mark: List[bytes] = []
        self._over = False
        self._generation = 0  # of the subjects
        self.core.loop.call_soon(self._begin)

    def _begin(self) -> None:
        self.core.services.append(self)
        if self.core.requests.link.open:
            self.daemon_came()
        self._tick()

    def daemon_came(self) -> None:
        """The connection for requests is there again. In the loop's thread, as all that follows."""
        self.worker.daemon_came()
        self._ask()

    def subscribe_again(self) -> None:
        """The service's subjects have changed. In the loop's thread."""
        self._generation += 1
        self.subscribed.clear()
        self.daemon_came()

    def _tick(self) -> None:
        if self._over:
            return
        self.worker.lease = self.core.lease
        self.worker.tick(time.monotonic())
        self._ask()
        self.link.kick()
        self.core.loop.call_later(self.worker.tick_seconds, self._tick)

    def _ask(self) -> None:
        worker, requests = self.worker, self.core.requests
        try:
            if worker.wants_subscribe:
                worker.wants_subscribe = worker.wants_keep_alive = False
                fields: Dict[str, Any] = {
                    "token": "subscribe",
                    "id": self.id,
                    "service": self.service.name,
                    "subjects": self.service._subjects,
                    **self._terms,
                }
                answered = functools.partial(self._subscribed, self._generation)
                requests.ask(fields, 60.0, whole=True).add_done_callback(answered)
            elif worker.wants_keep_alive:
                worker.wants_keep_alive = False
                requests.ask({"token": "keep_alive", "id": self.id}, worker.lease).add_done_callback(self._kept)
        except EventManagerError as error:
            self._later(error)

    def _subscribed(self, generation: int, answer: "Future[Any]") -> None:
        error = answer.exception()
        if self._over:
            return
        if error is None:
            told = answer.result()
            self.worker.subscribed(time.monotonic())
            if "ackTimeoutMs" in told:
                self.worker.ack_timeout = max(0.01, told["ackTimeoutMs"] / 1000)
            if told.get("deadLetterSubject"):
                self._letters_are_at(told["deadLetterSubject"])
            self.link.dial(_address.parse(told["data"][2]).reached_by(self.core.endpoint))
            if generation == self._generation:
                self.subscribed.set()
        elif isinstance(error, TooOld) and self._does_without(error):
            self.daemon_came()
        elif isinstance(error, Nak) and error.code not in _PASSING and not self.subscribed.is_set():
            self.failure = error
            self.subscribed.set()
        else:
            self._later(error)

    def _does_without(self, old: TooOld) -> bool:
        """Leaves out an option that the daemon doesn't know, if nothing is lost by that: the delays of retries come from here, and
        until the last attempt that a daemon allows by default, so does their number. Whether it did."""
        value = self._terms.get(old.field)
        if value is None:
            return False
        if old.field == "ackTimeout":
            # The daemon's own is not known, so it is told of long handlers as often as the shorter one needs.
            self.worker.ack_timeout = min(self.worker.ack_timeout, _OLD_ACK_TIMEOUT)
        elif old.field != "retry" or value["maxDeliveries"] > _OLD_MAX_DELIVERIES:
            return False
        del self._terms[old.field]
        log.warning("%s: %s. It works without that", self.service.name, old)
        return True

    def _later(self, error: BaseException) -> None:
        if not isinstance(error, Closed):
            log.warning("%s: not subscribed, trying again: %s", self.service.name, error)
            self.core.loop.call_later(1.0, self.daemon_came)

    def _kept(self, answer: "Future[Any]") -> None:
        error = answer.exception()
        if error is None:
            self.worker.subscribed(time.monotonic())
        elif isinstance(error, Nak) and error.code == "unknown-subscription":
            self.worker.lease_lost()
            self._ask()

    def _finished(self, finished: List[Tuple[Delivery, bytes]]) -> None:
        """Handlers are done with these. In the loop's thread."""
        for delivery, word in finished:
            self.worker.settle(delivery, word)
        if self.worker.stopping and not self.worker.held:
            self._idle.set()
        self.link.kick()

    # What the link calls.

    def opened(self) -> None:
        self.worker.opened()

    def received(self, items: List[Received]) -> None:
        deliveries = []
        for item in items:
            if isinstance(item, Command):
                if item.name == b"PONG" and item.body == _STOPPED:
                    self._told.set()
                continue
            try:
                delivery = self.worker.received(item)
            except ValueError as error:
                log.error("%s: the daemon says: %s", self.service.name, error)
            else:
                if delivery is not None:
                    self._idle.clear()
                    deliveries.append(delivery)
        if deliveries:
            self.runner.put(deliveries)

    def more(self) -> bytes:
        out, mark = self.worker.out, self._mark
        self.worker.out, self._mark = [], []
        return b"".join(out + mark)

    def closed(self, why: str, unsent: int) -> None:
        self.worker.closed()
        if self.worker.stopping:
            self._told.set()
            if not self.worker.held:
                self._idle.set()
        elif not self._over:
            self._ask()

    def stop(self, drain: float, unsubscribe: bool) -> None:
        """See Service.stop. In a thread of the user."""
        if self.service._running is self:
            self.service._running = None
        loop = self.core.loop
        deadline = time.monotonic() + drain

        def bye() -> None:
            self.worker.stop()
            if not self.worker.held:
                self._idle.set()
            ask_back()

        def ask_back() -> None:
            """The answer tells that the daemon has read all that was said, and that what it had sent before has come."""
            self._mark = [ping(_STOPPED)]
            if not self.link.open:
                self._told.set()
            self.link.kick()

        def give_back() -> None:
            for each in self.runner.take_back():
                self.worker.settle(each, b"NAK %d 0 the worker stops" % each.id)
            ask_back()

        def end() -> None:
            self._over = True
            self.link.close()
            if self in self.core.services:
                self.core.services.remove(self)
            over.set()

        over = threading.Event()
        if self.answers is not None:
            self.answers.stop()
        loop.call_soon(bye)
        # Until the daemon has read BYE, there may come more.
        self._told.wait(min(1.0, drain))
        self._idle.wait(max(0.0, deadline - time.monotonic()))
        self._told.clear()
        loop.call_soon(give_back)
        # That the daemon has read the last words is worth a second.
        self._told.wait(max(1.0, deadline - time.monotonic()))
        if unsubscribe:
            try:
                self.core.requests.ask({"token": "unsubscribe", "id": self.id}, 5.0).result()
            except EventManagerError as error:
                log.warning("%s: not unsubscribed: %s", self.service.name, error)
        still_running = len(self.worker.held)
        loop.call_soon(end)
        over.wait(5.0)
        self.runner.stop()
        if still_running:
            raise NotFinished(still_running, self.service.name, drain)

    def forked(self) -> None:
        """In a child process."""
        self.service._running = None
        self.service._forked = True
