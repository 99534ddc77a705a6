"""Channels."""

from __future__ import annotations

import itertools
import json
import logging
import os
import queue as _queue
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Callable, Deque, Dict, Iterator, List, Optional, Sequence, Tuple, Union

from ... import Reject
from ..._event import Event
from ...errors import EventManagerError, Nak, NoAnswer
from . import exceptions
from .bindings import matches, patterns_of
from .queues import Delivery, Requeue, Worker, waiting
from .spec import Basic, BasicProperties, DeliveryMode, Frame, Queue, from_headers, to_headers

if TYPE_CHECKING:
    from .blocking_connection import BlockingConnection

log = logging.getLogger("event_manager")

Callback = Callable[[Any, Any, BasicProperties, bytes], Any]

#: Credit of a consumer without a limit.
_UNLIMITED = 1000
#: Their own and RabbitMQ's number for what the daemon refuses.
CODES = {"in-use": 406, "no-store": 541, "unknown-service": 404, "invalid-name": 403, "invalid-subject": 403}


class BlockingChannel:
    """A channel."""

    def __init__(self, connection: "BlockingConnection", number: int) -> None:
        self.connection = connection
        self.channel_number = number
        self._open = True
        self._prefetch = _UNLIMITED
        self._confirms = False
        self._tags = itertools.count(1)
        self._unacked: Dict[int, Tuple[Delivery, str]] = {}
        self._consumers: Dict[str, Worker] = {}
        self._pending: Dict[str, Deque[Delivery]] = {}
        self._getters: Dict[str, List[Worker]] = {}
        self._got: Dict[str, "_queue.SimpleQueue[Delivery]"] = {}
        self._generator: Optional[Tuple[str, Deque[Any]]] = None
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
            delivery.fail(Requeue("not answered before the end"))
        self._unacked.clear()
        self._consumers.clear()
        self._getters.clear()
        for each in workers:
            each.close()
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
        return Frame(Queue.DeclareOk(queue=name, message_count=waiting(counters), consumer_count=counters["workers"]["ready"]))

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
        count = waiting(there) if there else 0
        if there and ((if_unused and there["workers"]["ready"]) or (if_empty and count)):
            raise self._fail(exceptions.ChannelClosedByBroker(406, f"queue {queue!r} is in use or not empty"))
        for each in self._getters.pop(queue, []):
            each.close()
        self.connection._end_queue(queue)
        for sub in there["subscriptions"] if there else ():
            if not any(each._service.name == queue for each in self._consumers.values()):
                try:
                    self.connection._hub.request({"token": "unsubscribe", "id": sub["id"]}, repeatable=True)
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
        self.connection._unsure = True
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

        def put(delivery: Delivery) -> None:
            self.connection._calls.put(lambda: self._deliver(delivery, queue, tag, on_message_callback, auto_ack))

        self._consumers[tag] = self._worker(queue, self._prefetch, put)
        return tag

    def _worker(self, queue: str, prefetch: int, put: Callable[[Delivery], None]) -> Worker:
        connection = self.connection
        try:
            if queue not in connection._queues:
                there = connection._service(queue)
                if there is None:
                    raise exceptions.ChannelClosedByBroker(404, f"no queue {queue!r}")
                connection._bind(queue, bool(there["durable"]))
            return Worker(connection._hub, queue, self._durable(queue), prefetch, put)
        except exceptions.ChannelClosedByBroker as error:
            raise self._fail(error) from error
        except Nak as error:
            raise self._fail(exceptions.ChannelClosedByBroker(CODES.get(error.code, 541), str(error))) from error
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

    def _deliver(self, delivery: Delivery, queue: str, tag: str, callback: Callback, auto_ack: bool) -> None:
        if delivery.answer.done():
            return
        if not self._open or tag not in self._consumers:
            delivery.fail(Requeue("the consumer is gone"))
            return
        method = self._take(delivery, queue, auto_ack, consumer_tag=tag)
        if method is not None:
            callback(self, method, from_headers(delivery.event.headers), delivery.event.raw)

    def _take(self, delivery: Delivery, queue: str, auto_ack: bool, **more: Any) -> Any:
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
        with self.connection._lock:
            # Whoever finds no consumer left, and closes all, waits for the one that is leaving.
            worker = self._consumers.pop(consumer_tag, None)
            taken = worker.cancel() if worker is not None else False
            if worker is not None:
                self.connection._leaving = [*(each for each in self.connection._leaving if each.is_alive()), worker.leaving]
        if worker is not None and not taken:
            worker.leaving.join(5.0)
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
                if not waiting(there) and got.empty() and not self._on_the_way(queue):
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
            method.message_count = waiting(there) if there else 0
            return method, from_headers(delivery.event.headers), delivery.event.raw

    def _on_the_way(self, queue: str) -> bool:
        """Whether a worker for basic_get may get a message that we don't see yet."""
        open_there = sum(1 for _, other in self._unacked.values() if other == queue)
        return len(self._getters.get(queue, [])) > open_there and self._service_waits(queue)

    def _service_waits(self, queue: str) -> bool:
        there = self.connection._service(queue)
        open_there = sum(1 for _, other in self._unacked.values() if other == queue)
        return bool(there and (waiting(there) or there["counters"]["inFlight"] > open_there))

    # Answering.

    def basic_ack(self, delivery_tag: int = 0, multiple: bool = False) -> None:
        """The message is done; with `multiple` all up to it, 0 being the last."""
        for delivery, _ in self._answered(delivery_tag, multiple):
            delivery.ack()

    def basic_nack(self, delivery_tag: int = 0, multiple: bool = False, requeue: bool = True) -> None:
        """The message goes back, or becomes a dead letter."""
        for delivery, queue in self._answered(delivery_tag, multiple):
            if requeue:
                delivery.fail(Requeue("requeued by its consumer"))
            else:
                self._reject(delivery, queue)

    def basic_reject(self, delivery_tag: int = 0, requeue: bool = True) -> None:
        """As basic_nack."""
        self.basic_nack(delivery_tag, False, requeue)

    def basic_recover(self, requeue: bool = True) -> None:
        """All messages that are not answered go back."""
        self.basic_nack(0, True, True)

    def _answered(self, tag: int, multiple: bool) -> List[Tuple[Delivery, str]]:
        self._check()
        if multiple:
            tags = [each for each in self._unacked if each <= tag or tag == 0]
        else:
            tags = [tag] if tag in self._unacked else []
        if not tags and not (multiple and tag == 0):
            raise self._fail(exceptions.ChannelClosedByBroker(406, f"PRECONDITION_FAILED - unknown delivery tag {tag}"))
        return [self._unacked.pop(each) for each in sorted(tags)]

    def _reject(self, delivery: Delivery, queue: str) -> None:
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
            delivery.fail(Requeue(f"its dead letter was not confirmed: {error}"))
        else:
            delivery.ack()

    def add_on_cancel_callback(self, callback: Callable[..., Any]) -> None:
        """Never called: consumers are not cancelled by the daemon."""

    def add_on_return_callback(self, callback: Callable[..., Any]) -> None:
        """Never called: mandatory messages need `confirm_delivery`, and raise."""

    def flow(self, active: bool) -> bool:
        """Not needed: publishers are slowed down by TCP."""
        return active
