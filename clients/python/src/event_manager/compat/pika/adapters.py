"""BlockingConnection and its channels."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
import logging
import os
import queue as _queue
import re
import threading
import time
from collections import deque
from concurrent.futures import Future
from typing import Any, Callable, Deque, Dict, Iterator, List, Optional, Sequence, Set, Tuple, Union

from ... import _ask
from ... import hub as _hub
from ..._event import Event
from ...errors import EventManagerError, MayBeLost, Nak, NoAnswer
from ... import Reject, Retry, Service
from . import exceptions
from .connection import ConnectionParameters
from .spec import Basic, BasicProperties, DeliveryMode, Frame, Queue, from_headers, to_headers

log = logging.getLogger("event_manager")

Callback = Callable[[Any, Any, BasicProperties, bytes], Any]

#: Credit of a consumer without a limit.
_UNLIMITED = 1000
#: How often queues' leases are prolonged.
_KEEP_ALIVE_SECONDS = 10.0
#: Their own and RabbitMQ's number for what the daemon refuses.
_CODES = {"in-use": 406, "no-store": 541, "unknown-service": 404, "invalid-name": 403, "invalid-subject": 403}
_PREDECLARED = {"amq.direct": "direct", "amq.topic": "topic", "amq.fanout": "fanout"}


class _Requeue(Exception):
    """The event goes back into its queue."""


def patterns_of(routing_key: str, exchange_type: str) -> List[str]:
    """A binding as subscriptions: `#` is no word or more."""
    if exchange_type == "fanout":
        return [""]
    if exchange_type != "topic" or not re.search(r"(^|\.)[*#](\.|$)", routing_key):
        return [f"exact:{routing_key}"]
    words = routing_key.split(".")
    if set(words) == {"#"}:
        return [""]
    hashes = [at for at, word in enumerate(words) if word == "#"]
    if len(hashes) > 3 or "?" in routing_key:
        raise exceptions.ChannelClosedByBroker(540, f"binding {routing_key!r}: at most three # and no ? are possible here")
    found = []
    for kept in itertools.product((False, True), repeat=len(hashes)):
        there = dict(zip(hashes, kept))
        made = ".".join("**" if word == "#" else word for at, word in enumerate(words) if there.get(at, True))
        if made:
            found.append(f"glob:{made}" if "*" in made else f"exact:{made}")
    return found


def matches(routing_key: str, subject: str, exchange_type: str) -> bool:
    """Whether a binding is meant by a subject."""
    if exchange_type == "fanout":
        return True
    if exchange_type != "topic":
        return routing_key == subject

    def match(pattern: Sequence[str], words: Sequence[str]) -> bool:
        if not pattern:
            return not words
        if pattern[0] == "#":
            return any(match(pattern[1:], words[at:]) for at in range(len(words) + 1))
        return bool(words) and pattern[0] in ("*", words[0]) and match(pattern[1:], words[1:])

    return match(routing_key.split("."), subject.split("."))


class _Consumers(Service):
    """A queue's worker. It takes what comes: what the queue is bound to is the daemon's matter."""

    def _route(self, subject: bytes) -> Any:
        return self._handlers


class _Delivery:
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


class _Worker:
    """Takes a queue's messages, for a consumer or for basic_get."""

    def __init__(self, hub: _hub.Hub, queue: str, durable: Optional[bool], prefetch: int, put: Callable[[_Delivery], None]) -> None:
        self._put = put
        self._lock = threading.Lock()
        self._open: Set[_Delivery] = set()
        self._over = False
        self.leaving: Optional[threading.Thread] = None
        delivery: Any = None if durable is None else "queue" if durable else "live"
        retry = Retry(max=1_000_000, initial=0.0, jitter=0.0)
        self._service = _Consumers(
            queue, delivery=delivery, credit=prefetch, concurrency=prefetch, retry=retry, max_handling=86400
        )
        self._service.on(queue, dialect="exact")(self._came)
        self._service.start(hub)

    async def _came(self, event: "Event[bytes]") -> None:
        delivery = _Delivery(event)
        with self._lock:
            if self._over:
                raise _Requeue
            self._open.add(delivery)
        self._put(delivery)
        try:
            await asyncio.wrap_future(delivery.answer)
        finally:
            with self._lock:
                self._open.discard(delivery)

    def cancel(self) -> None:
        """Takes no more. What the user has can still be answered, the rest goes back."""
        taken = self._put_back(False)
        self.leaving = threading.Thread(target=self._stop, args=(86400.0,), daemon=True)
        self.leaving.start()
        if not taken:
            self.leaving.join(5.0)

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
            each.fail(_Requeue("not answered before the end"))
        return bool(kept)

    def _stop(self, drain: float) -> None:
        try:
            # The queue's own subscription stays.
            self._service.stop(drain, unsubscribe=True)
        except EventManagerError as error:
            log.warning("queue %s: %s", self._service.name, error)


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
                    _ask.ask(each.address, {"token": "status"}, timeout)
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
        for queue in list(self._exclusive):
            self._end_queue(queue)
        self._calls.put(lambda: None)
        self._hub.close()

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
        try:
            return _ask.ask(self._hub.address, fields, self._timeout)
        except Nak as error:
            if error.code == "unknown-subscription":
                raise
            text = f"{error.code}: {error.sentence}"
            if error.code == "no-store":
                text += " (a durable queue needs the daemon's stateDir)"
            raise exceptions.ChannelClosedByBroker(_CODES.get(error.code, 541), text) from error
        except NoAnswer as error:
            raise exceptions.AMQPConnectionError(str(error)) from error

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
                _ask.ask(self._hub.address, fields, self._timeout)
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


class BlockingChannel:
    """A channel."""

    def __init__(self, connection: BlockingConnection, number: int) -> None:
        self.connection = connection
        self.channel_number = number
        self._open = True
        self._prefetch = _UNLIMITED
        self._confirms = False
        self._tags = itertools.count(1)
        self._unacked: Dict[int, Tuple[_Delivery, str]] = {}
        self._consumers: Dict[str, _Worker] = {}
        self._pending: Dict[str, Deque[_Delivery]] = {}
        self._getters: Dict[str, List[_Worker]] = {}
        self._got: Dict[str, "_queue.SimpleQueue[_Delivery]"] = {}
        self._generator: Optional[Tuple[str, Deque[Any]]] = None
        self._leaving: List[threading.Thread] = []
        self._stopped = False

    @property
    def is_open(self) -> bool:
        """Whether neither it nor its connection is closed."""
        return self._open and self.connection.is_open

    @property
    def is_closed(self) -> bool:
        """Whether it is closed."""
        return not self.is_open

    @property
    def consumer_tags(self) -> List[str]:
        """Tags of its consumers."""
        return list(self._consumers)

    def close(self, reply_code: int = 0, reply_text: str = "Normal shutdown") -> None:
        """Puts back what isn't answered."""
        self._check()
        self._close()

    def _close(self) -> None:
        self._open = False
        workers = list(self._consumers.values()) + [each for several in self._getters.values() for each in several]
        for delivery, _ in list(self._unacked.values()):
            delivery.fail(_Requeue("not answered before the end"))
        self._unacked.clear()
        self._consumers.clear()
        self._getters.clear()
        for each in workers:
            each.close()
        for thread in self._leaving:
            thread.join(5.0)
        self.connection._channels.pop(self.channel_number, None)
        self.connection._calls.put(lambda: None)

    def _check(self) -> None:
        self.connection._check()
        if not self._open:
            raise exceptions.ChannelWrongStateError("the channel is closed; open another one")

    def _fail(self, error: exceptions.ChannelClosedByBroker) -> exceptions.ChannelClosedByBroker:
        self._close()
        return error

    def __enter__(self) -> "BlockingChannel":
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_open:
            self.close()

    # Exchanges and queues.

    def exchange_declare(
        self,
        exchange: str,
        exchange_type: Any = "direct",
        passive: bool = False,
        durable: bool = False,
        auto_delete: bool = False,
        internal: bool = False,
        arguments: Any = None,
    ) -> Frame:
        """Says how an exchange picks queues. It is known to this connection; nothing is kept in the daemon."""
        self._check()
        kind = getattr(exchange_type, "value", exchange_type)
        if kind not in ("direct", "topic", "fanout"):
            raise self._fail(exceptions.ChannelClosedByBroker(540, f"exchanges of type {kind!r} are not possible here"))
        known = self.connection._exchanges.get(exchange)
        if passive and known is None:
            raise self._fail(exceptions.ChannelClosedByBroker(404, f"no exchange {exchange!r}"))
        if known not in (None, kind) and not passive:
            raise self._fail(exceptions.ChannelClosedByBroker(406, f"exchange {exchange!r} is of type {known}, not {kind}"))
        if not passive:
            self.connection._exchanges[exchange] = kind
        return Frame(Queue.Ok())

    def exchange_delete(self, exchange: str = "", if_unused: bool = False) -> Frame:
        """Forgets an exchange's type."""
        self._check()
        self.connection._exchanges.pop(exchange, None)
        return Frame(Queue.Ok())

    def queue_declare(
        self,
        queue: str,
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = False,
        arguments: Optional[Dict[str, Any]] = None,
    ) -> Frame:
        """Makes a queue, or looks whether it is there. The answer's `method` has queue, message_count, consumer_count."""
        self._check()
        name = queue or f"amq.gen-{os.urandom(12).hex()}"
        connection = self.connection
        try:
            there = connection._service(name)
            if passive and there is None:
                raise exceptions.ChannelClosedByBroker(404, f"no queue {name!r}")
            if there is not None and not passive and bool(there["durable"]) != durable:
                raise exceptions.ChannelClosedByBroker(406, f"queue {name!r} is {'' if there['durable'] else 'not '}durable")
            if not passive:
                for each in set(arguments or ()) - {"x-dead-letter-exchange", "x-dead-letter-routing-key", "x-queue-type"}:
                    log.warning("queue %s: %s means nothing here; see services in the daemon's configuration", name, each)
                connection._arguments[name] = dict(arguments or {})
                connection._bind(name, durable)
                if exclusive or auto_delete:
                    connection._exclusive.add(name)
        except exceptions.ChannelClosedByBroker as error:
            raise self._fail(error) from error
        counters = there or {"counters": {"queued": 0}, "durable": None, "workers": {"ready": 0}}
        return Frame(Queue.DeclareOk(queue=name, message_count=_waiting(counters), consumer_count=counters["workers"]["ready"]))

    def _type_of(self, exchange: str) -> str:
        return "direct" if exchange == "" else self.connection._exchanges.get(exchange, "topic")

    def queue_bind(self, queue: str, exchange: str, routing_key: Optional[str] = None, arguments: Any = None) -> Frame:
        """Binds a queue. An exchange that this connection doesn't know is a topic exchange."""
        self._check()
        key = queue if routing_key is None else routing_key
        kind = self._type_of(exchange)
        try:
            self.connection._bind(queue, self._durable(queue), patterns_of(key or exchange, kind))
        except exceptions.ChannelClosedByBroker as error:
            raise self._fail(error) from error
        self.connection._bindings.setdefault(queue, set()).add((exchange, key or exchange, kind))
        return Frame(Queue.Ok())

    def queue_unbind(self, queue: str, exchange: str = "", routing_key: Optional[str] = None, arguments: Any = None) -> Frame:
        """Ends a binding."""
        self._check()
        key = (queue if routing_key is None else routing_key) or exchange
        kind = self._type_of(exchange)
        bindings = self.connection._bindings.setdefault(queue, set())
        bindings.discard((exchange, key, kind))
        kept = {pattern for _, other, type in bindings for pattern in patterns_of(other, type)}
        gone = [each for each in patterns_of(key, kind) if each not in kept]
        self.connection._bind(queue, self._durable(queue), remove=gone)
        return Frame(Queue.Ok())

    def _durable(self, queue: str) -> Optional[bool]:
        return self.connection._queues.get(queue, (None, []))[0]

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False) -> Frame:
        """Ends a queue, with what is in it."""
        self._check()
        there = self.connection._service(queue)
        count = _waiting(there) if there else 0
        if there and ((if_unused and there["workers"]["ready"]) or (if_empty and count)):
            raise self._fail(exceptions.ChannelClosedByBroker(406, f"queue {queue!r} is in use or not empty"))
        for each in self._getters.pop(queue, []):
            each.close()
        self.connection._end_queue(queue)
        for sub in there["subscriptions"] if there else ():
            if not any(each._service.name == queue for each in self._consumers.values()):
                try:
                    _ask.ask(self.connection._hub.address, {"token": "unsubscribe", "id": sub["id"]}, self.connection._timeout)
                except EventManagerError as error:
                    log.debug("queue %s: %s", queue, error)
        self.connection._end_queue(queue)
        return Frame(Queue.Ok(message_count=count))

    def queue_purge(self, queue: str) -> Frame:
        """Takes all that waits in a queue."""
        count = 0
        while True:
            method, _, _ = self.basic_get(queue, auto_ack=True)
            if method is None:
                return Frame(Queue.Ok(message_count=count))
            count += 1

    # Publishing.

    def confirm_delivery(self) -> None:
        """From now on each message is confirmed by the daemon: persistent ones when they are on disk."""
        self._check()
        self._confirms = True

    def basic_publish(
        self,
        exchange: str,
        routing_key: str,
        body: Union[bytes, str],
        properties: Optional[BasicProperties] = None,
        mandatory: bool = False,
    ) -> None:
        """Publishes. With `confirm_delivery`: UnroutableError if it is mandatory and no queue has it; NackError."""
        self._check()
        headers = to_headers(properties)
        if exchange:
            headers["x-exchange"] = exchange
        subject = routing_key or exchange
        expiration = properties.expiration if properties is not None else None
        if not self._confirms and expiration is None:
            try:
                self.connection._hub.publish(subject, body, headers=headers)
            except NoAnswer as error:
                raise exceptions.AMQPConnectionError(str(error)) from error
            return
        persistent = properties is not None and properties.delivery_mode == DeliveryMode.Persistent
        try:
            ttl = None if expiration is None else max(float(expiration) / 1000, 0.001)
            receipt = self.connection._hub.emit(subject, body, headers=headers, ttl=ttl, level="disk" if persistent else "memory")
        except (NoAnswer, Nak, ValueError) as error:
            if isinstance(error, ValueError) and isinstance(error, EventManagerError):
                raise
            raise exceptions.NackError([body], str(error)) from error
        if mandatory and not receipt.services:
            raise exceptions.UnroutableError([body])

    # Consuming.

    def basic_qos(self, prefetch_size: int = 0, prefetch_count: int = 0, global_qos: bool = False) -> None:
        """How many messages consumers that begin from now on have at a time, at most 1000."""
        self._check()
        self._prefetch = min(prefetch_count or _UNLIMITED, _UNLIMITED)

    def basic_consume(
        self,
        queue: str,
        on_message_callback: Callback,
        auto_ack: bool = False,
        exclusive: bool = False,
        consumer_tag: Optional[str] = None,
        arguments: Any = None,
    ) -> str:
        """Begins to consume a queue; returns the consumer's tag."""
        self._check()
        tag = consumer_tag or f"ctag{self.channel_number}.{os.urandom(8).hex()}"
        if tag in self._consumers:
            raise exceptions.DuplicateConsumerTag(f"there is a consumer {tag!r} on this channel")
        if not callable(on_message_callback):
            raise exceptions.AMQPChannelError(f"{on_message_callback!r} can't be called")
        self._stopped = False

        def put(delivery: _Delivery) -> None:
            self.connection._calls.put(lambda: self._deliver(delivery, queue, tag, on_message_callback, auto_ack))

        self._consumers[tag] = self._worker(queue, self._prefetch, put)
        return tag

    def _worker(self, queue: str, prefetch: int, put: Callable[[_Delivery], None]) -> _Worker:
        connection = self.connection
        try:
            if queue not in connection._queues:
                there = connection._service(queue)
                if there is None:
                    raise exceptions.ChannelClosedByBroker(404, f"no queue {queue!r}")
                connection._bind(queue, bool(there["durable"]))
            return _Worker(connection._hub, queue, self._durable(queue), prefetch, put)
        except exceptions.ChannelClosedByBroker as error:
            raise self._fail(error) from error
        except Nak as error:
            raise self._fail(exceptions.ChannelClosedByBroker(_CODES.get(error.code, 541), str(error))) from error
        except NoAnswer as error:
            raise exceptions.AMQPConnectionError(str(error)) from error

    def _is_bound(self, queue: str, event: "Event[bytes]") -> bool:
        """Whether a message is meant for a queue: an exchange is not the daemon's matter."""
        exchange = event.headers.get("x-exchange", "")
        # The daemon's own dead letters are for who asks for them by name.
        if not exchange and event.subject.endswith(".DLQ"):
            return f"exact:{event.subject}" in self.connection._queues.get(queue, (None, []))[1]
        bindings = self.connection._bindings.get(queue)
        if not bindings or not exchange and event.subject == queue:
            return True
        meant = [one for one, key, kind in bindings if matches(key, event.subject, kind)]
        # What it isn't bound to by this connection is another one's binding; events of others have no exchange.
        return not meant or not exchange and any(self._type_of(one) != "fanout" for one in meant) or exchange in meant

    def _deliver(self, delivery: _Delivery, queue: str, tag: str, callback: Callback, auto_ack: bool) -> None:
        if delivery.answer.done():
            return
        if not self._open or tag not in self._consumers:
            delivery.fail(_Requeue("the consumer is gone"))
            return
        method = self._take(delivery, queue, auto_ack, consumer_tag=tag)
        if method is not None:
            callback(self, method, from_headers(delivery.event.headers), delivery.event.raw)

    def _take(self, delivery: _Delivery, queue: str, auto_ack: bool, **more: Any) -> Any:
        """What tells of a message; None if it isn't meant for the queue."""
        event = delivery.event
        delivery.taken = True
        if not self._is_bound(queue, event):
            delivery.ack()
            return None
        number = next(self._tags)
        if auto_ack:
            delivery.ack()
        else:
            self._unacked[number] = (delivery, queue)
        kind = Basic.Deliver if "consumer_tag" in more else Basic.GetOk
        exchange = event.headers.get("x-exchange", "")
        return kind(delivery_tag=number, redelivered=event.attempt > 1, exchange=exchange, routing_key=event.subject, **more)

    def start_consuming(self) -> None:
        """Runs callbacks until `stop_consuming`, or there is no consumer any more."""
        self._check()
        while self._consumers and not self._stopped and self.is_open:
            self.connection._run(None)

    def stop_consuming(self, consumer_tag: Optional[str] = None) -> None:
        """Ends consumers, all without a tag. May be called by any thread."""
        for tag in [consumer_tag] if consumer_tag else list(self._consumers):
            self.basic_cancel(tag)
        if not self._consumers:
            self._stopped = True
        self.connection._calls.put(lambda: None)

    def basic_cancel(self, consumer_tag: str) -> Sequence[Any]:
        """Ends a consumer. What it was given can still be answered; what its callback hasn't seen goes back."""
        self._check()
        worker = self._consumers.pop(consumer_tag, None)
        if worker is not None:
            worker.cancel()
            if worker.leaving is not None:
                self._leaving = [each for each in self._leaving if each.is_alive()] + [worker.leaving]
        self.connection._calls.put(lambda: None)
        return []

    def consume(
        self, queue: str, auto_ack: bool = False, exclusive: bool = False, arguments: Any = None, inactivity_timeout: Optional[float] = None
    ) -> Iterator[Tuple[Any, Any, Any]]:
        """Yields (method, properties, body), and (None, None, None) when nothing came for `inactivity_timeout` seconds."""
        if self._generator is None:
            found: Deque[Any] = deque()
            tag = self.basic_consume(queue, lambda _, method, properties, body: found.append((method, properties, body)), auto_ack)
            self._generator = (tag, found)
        while self._generator is not None:
            found = self._generator[1]
            deadline = None if inactivity_timeout is None else time.monotonic() + inactivity_timeout
            while self._generator is not None and not found and self.is_open and self.connection._run(deadline):
                pass
            if self._generator is None or self.is_closed:
                return
            yield found.popleft() if found else (None, None, None)

    def cancel(self) -> int:
        """Ends `consume`; puts back what it hasn't yielded, and returns how much that was."""
        if self._generator is None:
            return 0
        (tag, found), self._generator = self._generator, None
        for method, _, _ in found:
            if method.delivery_tag in self._unacked:
                self.basic_nack(method.delivery_tag)
        self.basic_cancel(tag)
        return len(found)

    def basic_get(self, queue: str, auto_ack: bool = False) -> Tuple[Any, Any, Any]:
        """The next message (method, properties, body), or (None, None, None) if none waits."""
        self._check()
        got = self._got.setdefault(queue, _queue.SimpleQueue())
        deadline = time.monotonic() + self.connection._timeout
        while True:
            try:
                delivery = got.get_nowait()
            except _queue.Empty:
                there = self.connection._service(queue)
                if there is None:
                    raise self._fail(exceptions.ChannelClosedByBroker(404, f"no queue {queue!r}")) from None
                if not _waiting(there) and got.empty() and not self._on_the_way(queue):
                    return None, None, None
                if time.monotonic() > deadline:
                    return None, None, None
                if not self._on_the_way(queue):
                    self._getters.setdefault(queue, []).append(self._worker(queue, 1, got.put))
                try:
                    delivery = got.get(timeout=0.05)
                except _queue.Empty:
                    continue
            method = self._take(delivery, queue, auto_ack, message_count=0)
            if method is None:
                continue
            there = self.connection._service(queue)
            method.message_count = _waiting(there) if there else 0
            return method, from_headers(delivery.event.headers), delivery.event.raw

    def _on_the_way(self, queue: str) -> bool:
        """Whether a worker for basic_get may get a message that we don't see yet."""
        open_there = sum(1 for _, other in self._unacked.values() if other == queue)
        return len(self._getters.get(queue, [])) > open_there and self._service_waits(queue)

    def _service_waits(self, queue: str) -> bool:
        there = self.connection._service(queue)
        open_there = sum(1 for _, other in self._unacked.values() if other == queue)
        return bool(there and (_waiting(there) or there["counters"]["inFlight"] > open_there))

    # Answering.

    def basic_ack(self, delivery_tag: int = 0, multiple: bool = False) -> None:
        """The message is done; with `multiple` all up to it, 0 being the last."""
        for delivery, _ in self._answered(delivery_tag, multiple):
            delivery.ack()

    def basic_nack(self, delivery_tag: int = 0, multiple: bool = False, requeue: bool = True) -> None:
        """The message goes back, or becomes a dead letter."""
        for delivery, queue in self._answered(delivery_tag, multiple):
            if requeue:
                delivery.fail(_Requeue("requeued by its consumer"))
            else:
                self._reject(delivery, queue)

    def basic_reject(self, delivery_tag: int = 0, requeue: bool = True) -> None:
        """As basic_nack."""
        self.basic_nack(delivery_tag, False, requeue)

    def basic_recover(self, requeue: bool = True) -> None:
        """All messages that are not answered go back."""
        self.basic_nack(0, True, True)

    def _answered(self, tag: int, multiple: bool) -> List[Tuple[_Delivery, str]]:
        self._check()
        if multiple:
            tags = [each for each in self._unacked if each <= tag or tag == 0]
        else:
            tags = [tag] if tag in self._unacked else []
        if not tags and not (multiple and tag == 0):
            raise self._fail(exceptions.ChannelClosedByBroker(406, f"PRECONDITION_FAILED - unknown delivery tag {tag}"))
        return [self._unacked.pop(each) for each in sorted(tags)]

    def _reject(self, delivery: _Delivery, queue: str) -> None:
        arguments = self.connection._arguments.get(queue, {})
        if "x-dead-letter-exchange" not in arguments:
            delivery.fail(Reject("rejected by its consumer"))
            return
        event = delivery.event
        headers = dict(event.headers)
        properties = from_headers(event.headers)
        death = {"queue": queue, "reason": "rejected", "exchange": headers.pop("x-exchange", ""), "routing-keys": [event.subject]}
        carried = dict(properties.headers or {})
        carried["x-death"] = [death, *carried.get("x-death", [])]
        headers["x-headers"] = json.dumps(carried)
        exchange = str(arguments["x-dead-letter-exchange"])
        if exchange:
            headers["x-exchange"] = exchange
        subject = str(arguments.get("x-dead-letter-routing-key") or event.subject)
        try:
            self.connection._hub.emit(subject, event.raw, headers=headers)
        except EventManagerError as error:
            delivery.fail(_Requeue(f"its dead letter was not confirmed: {error}"))
        else:
            delivery.ack()

    def add_on_cancel_callback(self, callback: Callable[..., Any]) -> None:
        """Never called: consumers are not cancelled by the daemon."""

    def add_on_return_callback(self, callback: Callable[..., Any]) -> None:
        """Never called: mandatory messages need `confirm_delivery`, and raise."""

    def flow(self, active: bool) -> bool:
        """Not needed: publishers are slowed down by TCP."""
        return active


def _waiting(service: Dict[str, Any]) -> int:
    """Messages that wait in a queue for a consumer."""
    durable = service["durable"] or {}
    # Just after the daemon's start, what is on disk isn't counted yet.
    opening = durable.get("state") == "opening"
    return int(service["counters"]["queued"]) + int(durable.get("onDiskOnlyEvents", 0)) + int(opening)


__all__ = ["BlockingChannel", "BlockingConnection", "MayBeLost"]
