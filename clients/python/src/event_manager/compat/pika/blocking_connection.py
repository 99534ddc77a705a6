"""BlockingConnection."""

from __future__ import annotations

import heapq
import itertools
import logging
import queue as _queue
import threading
import time
from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple, Union

from ... import hub as _hub
from ...errors import EventManagerError, MayBeLost, Nak, NoAnswer
from . import exceptions
from .channel import CODES, BlockingChannel
from .connection import ConnectionParameters

log = logging.getLogger("event_manager")

#: How often queues' leases are prolonged.
_KEEP_ALIVE_SECONDS = 10.0
_PREDECLARED = {"amq.direct": "direct", "amq.topic": "topic", "amq.fanout": "fanout"}


class BlockingConnection:
    """A connection to a daemon. AMQPConnectionError if there is none after `connection_attempts`.

    Callbacks run in the thread that calls `start_consuming` or `process_data_events`. Its methods may be called by any
    thread, which pika doesn't allow; `add_callback_threadsafe` is there, too.
    """

    def __init__(self, parameters: "Union[ConnectionParameters, Sequence[ConnectionParameters], None]" = None) -> None:
        several = [parameters] if isinstance(parameters, ConnectionParameters) else list(parameters or [ConnectionParameters()])
        self._calls: "_queue.SimpleQueue[Callable[[], None]]" = _queue.SimpleQueue()
        self._timers: List[Tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()
        self._channels: Dict[int, "BlockingChannel"] = {}
        #: Patterns by queue, of those whose lease is prolonged; and those that end with the connection.
        self._queues: Dict[str, Tuple[Optional[bool], List[str]]] = {}
        self._exclusive: Set[str] = set()
        self._exchanges: Dict[str, str] = dict(_PREDECLARED)
        self._bindings: Dict[str, Set[Tuple[str, str, str]]] = {}
        self._arguments: Dict[str, Dict[str, Any]] = {}
        self._closed = threading.Event()
        #: Consumers that were cancelled, and end when what they hold is answered.
        self._leaving: List[threading.Thread] = []
        #: Whether something was published since the last flush; and what may be lost of that.
        self._unsure = False
        self._lost: Optional[MayBeLost] = None
        self._hub, self._timeout = self._connect(several)
        threading.Thread(target=self._keep_alive, name="pika-keep-alive", daemon=True).start()

    @staticmethod
    def _connect(several: Sequence[ConnectionParameters]) -> Tuple[_hub.Hub, float]:
        why: Optional[EventManagerError] = None
        attempts = max(each.connection_attempts for each in several)
        for attempt in range(attempts):
            for each in several:
                if attempt >= each.connection_attempts:
                    continue
                timeout = each.stack_timeout or each.socket_timeout or 15.0
                hub = _hub.connect(each.address, timeout=timeout)
                try:
                    hub.status()
                    return hub, timeout
                except (NoAnswer, Nak) as error:
                    why = error
                    hub.close(0)
            if attempt + 1 < attempts:
                time.sleep(several[0].retry_delay)
        raise exceptions.AMQPConnectionError(str(why)) from why

    # What pika has.

    @property
    def is_open(self) -> bool:
        """Whether it is not closed. A daemon that is away for a while doesn't close it."""
        return not self._closed.is_set()

    @property
    def is_closed(self) -> bool:
        """Whether it is closed."""
        return self._closed.is_set()

    def channel(self, channel_number: Optional[int] = None) -> "BlockingChannel":
        """Opens a channel."""
        self._check()
        with self._lock:
            number = channel_number or next(each for each in itertools.count(1) if each not in self._channels)
            made = self._channels[number] = BlockingChannel(self, number)
        return made

    def close(self, reply_code: int = 200, reply_text: str = "Normal shutdown") -> None:
        """Puts back what isn't answered, sends what is published, and ends. MayBeLost if something is left.
        ConnectionWrongStateError if it is closed."""
        with self._lock:
            self._check()
            self._closed.set()
            channels = list(self._channels.values())
        for each in channels:
            each._close()
        with self._lock:
            leaving = list(self._leaving)
        for thread in leaving:
            thread.join(5.0)
        for queue in list(self._exclusive):
            self._end_queue(queue)
        self._calls.put(lambda: None)
        self._hub.close()
        if self._lost is not None:
            raise self._lost

    def process_data_events(self, time_limit: Optional[float] = 0) -> None:
        """Runs callbacks that are due; waits for one for at most `time_limit` seconds (None: until there is one)."""
        self._check()
        deadline = None if time_limit is None else time.monotonic() + time_limit
        if self._run(deadline):
            while self._run(0.0):
                pass

    def sleep(self, duration: float) -> None:
        """Runs callbacks for some seconds."""
        deadline = time.monotonic() + duration
        while time.monotonic() < deadline and self.is_open:
            self._run(deadline)

    def call_later(self, delay: float, callback: Callable[[], None]) -> int:
        """Calls back after some seconds, when callbacks are run. Returns an id for `remove_timeout`."""
        with self._lock:
            number = next(self._numbers)
            heapq.heappush(self._timers, (time.monotonic() + delay, number, callback))
        self._calls.put(lambda: None)
        return number

    def remove_timeout(self, timeout_id: int) -> None:
        """Forgets what `call_later` returned."""
        with self._lock:
            self._timers = [each for each in self._timers if each[1] != timeout_id]
            heapq.heapify(self._timers)

    def add_callback_threadsafe(self, callback: Callable[[], None]) -> None:
        """Calls back soon, when callbacks are run."""
        self._check()
        self._calls.put(callback)

    def add_on_connection_blocked_callback(self, callback: Callable[..., Any]) -> None:
        """Never called: publishers are slowed down by TCP."""

    def add_on_connection_unblocked_callback(self, callback: Callable[..., Any]) -> None:
        """Never called."""

    def __enter__(self) -> "BlockingConnection":
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_open:
            self.close()

    # What its channels need.

    def _check(self) -> None:
        if self._closed.is_set():
            raise exceptions.ConnectionWrongStateError("the connection is closed; open another one")

    def _run(self, deadline: Optional[float]) -> bool:
        """Runs one callback; waits for it until the deadline. Whether there was one."""
        while True:
            with self._lock:
                now = time.monotonic()
                timer = self._timers[0][0] if self._timers else None
                due = heapq.heappop(self._timers)[2] if timer is not None and timer <= now else None
            if due is not None:
                due()
                return True
            until = [each for each in (deadline, timer) if each is not None]
            try:
                if until and min(until) <= now:
                    call = self._calls.get_nowait()
                else:
                    call = self._calls.get(timeout=min(until) - now if until else None)
            except _queue.Empty:
                if deadline is not None and time.monotonic() >= deadline:
                    return False
                continue
            call()
            return True

    def _request(self, fields: Dict[str, Any]) -> Any:
        self._flush()
        try:
            return self._hub.request(fields, repeatable=True)
        except Nak as error:
            if error.code == "unknown-subscription":
                raise
            text = f"{error.code}: {error.sentence}"
            if error.code == "no-store":
                text += " (a durable queue needs the daemon's stateDir)"
            raise exceptions.ChannelClosedByBroker(CODES.get(error.code, 541), text) from error
        except NoAnswer as error:
            raise exceptions.AMQPConnectionError(str(error)) from error

    def _flush(self) -> None:
        """As in AMQP, what was published before a request is done before it."""
        if self._unsure:
            self._unsure = False
            try:
                self._hub.flush()
            except MayBeLost as error:
                self._lost = self._lost or error
                log.warning("%s", error)

    def _service(self, queue: str) -> Optional[Dict[str, Any]]:
        """What STATUS says of a queue."""
        services: List[Dict[str, Any]] = self._request({"token": "status"})["services"]
        return next((each for each in services if each["name"] == queue), None)

    def _bind(self, queue: str, durable: Optional[bool], add: Sequence[str] = (), remove: Sequence[str] = ()) -> None:
        """Subscribes a queue to what it is bound to already, and more or less."""
        with self._lock:
            there = self._service(queue)
            before = there["subjects"] if there else self._queues.get(queue, (None, []))[1]
            subjects = [each for each in before if each not in remove]
            subjects += [each for each in [f"exact:{queue}", *add] if each not in subjects]
            fields: Dict[str, Any] = {"token": "subscribe", "id": _id(queue), "service": queue, "subjects": subjects}
            if durable is not None:
                fields["delivery"] = "queue" if durable else "live"
            self._request(fields)
            self._queues[queue] = (durable, subjects)

    def _end_queue(self, queue: str) -> None:
        with self._lock:
            self._queues.pop(queue, None)
            self._exclusive.discard(queue)
        for fields in ({"token": "unsubscribe", "id": _id(queue)}, {"token": "end", "service": queue}):
            try:
                self._hub.request(fields, repeatable=True)
            except EventManagerError as error:
                log.debug("queue %s: %s", queue, error)

    def _keep_alive(self) -> None:
        while not self._closed.wait(_KEEP_ALIVE_SECONDS):
            for queue, (durable, subjects) in list(self._queues.items()):
                try:
                    self._request({"token": "keep_alive", "id": _id(queue)})
                except Nak:
                    try:
                        self._bind(queue, durable, subjects)
                    except EventManagerError as error:
                        log.warning("queue %s: %s", queue, error)
                except EventManagerError as error:
                    log.warning("queue %s: %s", queue, error)


def _id(queue: str) -> str:
    """One subscription for all who declare a queue."""
    made = f"pika:{queue}"
    return made if len(made.encode()) <= 255 else queue
