"""The bus."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
import time
from concurrent.futures import Future
from typing import Any, Callable, Dict, Iterable, List, Literal, Optional, Union

from ... import Retry, Service, _ask
from ... import hub as _hub
from ..._calls import replies_of
from ..._event import Event as Received
from ..._event import subject_bytes
from ..._messages import Answerer, Frames, Reply, Unreachable, ask, read_token, same_token
from ...curve import Curve
from ...errors import Closed, EventManagerError, InvalidArgument, MayBeLost, Nak, NoAnswer
from .handling import Fixed, Lane, in_own_thread
from .messages import (
    AckMessage,
    DataType,
    DefaultToken,
    Event,
    Message,
    MessageBus,
    MessageBusException,
    MessageBusExceptionType,
    MessageHandlerBuilder,
    NakMessage,
    SubscriptionInfo,
)
from .wire import event_of, payload, read, text, written

log = logging.getLogger("event_manager")

#: Where the ServiceLocator is, as in their README.
LOCATOR_VARIABLE = "SERVICE_LOCATOR_ADDRESS"
HOSTNAME_VARIABLE = "PUBLIC_HOSTNAME"


class ZeroMqMessageBus(MessageBus):
    """A service's connection to the event manager and to other services.

    `address`: the event manager; without it the environment's EVENT_MANAGER_CLIENT_ADDRESS, else what the ServiceLocator
    (`locator`, else SERVICE_LOCATOR_ADDRESS) says, else tcp://localhost:5101. `public_hostname` (else PUBLIC_HOSTNAME, else
    localhost) is where others reach this service. `delivery="queue"` makes it durable. `timeout` is in seconds.
    """

    def __init__(
        self,
        service_name: str,
        context: Any = None,
        *,
        handler: Any = None,
        address: Optional[str] = None,
        locator: Optional[str] = None,
        public_hostname: Optional[str] = None,
        delivery: Optional[Literal["live", "queue"]] = None,
        on_busy: Literal["drop", "queue"] = "drop",
        retry: Optional[Retry] = None,
        timeout: float = 30.0,
    ) -> None:
        if on_busy not in ("drop", "queue"):
            raise InvalidArgument(f"on_busy is 'drop' or 'queue', not {on_busy!r}")
        Service(service_name, delivery=delivery)  # refuses what can't be
        self.service_name = service_name
        self.context = context
        self.on_busy = on_busy
        #: NON_REENTRANT events that were dropped.
        self.dropped = 0
        self._delivery: Optional[Literal["live", "queue"]] = delivery
        self._retry, self._timeout = retry, timeout
        named = locator or os.environ.get(LOCATOR_VARIABLE)
        keys = _hub.keys_for(None)
        where = address or os.environ.get(_hub.ADDRESS_VARIABLE) or _located(named, timeout, keys)
        self._hub = _hub.connect(where, timeout=timeout, curve=keys or False)
        self._locator = named
        self._host = public_hostname or os.environ.get(HOSTNAME_VARIABLE) or "localhost"
        self._lock = threading.RLock()
        self._subjects: Dict[str, str] = {}
        self._lanes: Dict[str, Lane] = {}
        self._service: Optional[Service] = None
        self._leaving: List[threading.Thread] = []
        self._builder: Optional[MessageHandlerBuilder] = None
        self._ready: "Future[None]" = Future()
        self._answerer: Optional[Answerer] = None
        self._closed = threading.Event()
        self._gone = threading.Event()
        #: Set when other services find this one.
        self.registered = threading.Event()
        if handler is not None:
            self._handle_with(handler)

    # What is published and sent.

    def publish_event(self, event: Event) -> Message:
        """Publishes an event. A sync one is answered by its services: ACK if all said so, with the results as JSON.

        Of an async one, ACK says that it was accepted by the event manager. MessageBusException if there is no answer.
        """
        subject_bytes(event.subject)
        if not event.sync:
            try:
                receipt = self._hub.emit(event.subject, payload(event))
            except NoAnswer as error:
                raise MessageBusException(MessageBusExceptionType.timeout, str(error)) from error
            return Message(DefaultToken.TK_SYS_ACK, DataType.json, json.dumps({"id": receipt.id, "services": receipt.services}))
        fields: Dict[str, Any] = {
            "token": "publish", "subject": event.subject, "payload": text(event.data), "sync": "true",
            "type": event.type or "", "source_id": "" if event.source_id is None else str(event.source_id),
            "timeout": round(self._timeout * 1e6),
        }  # fmt: skip
        try:
            data = self._hub.request(fields, timeout=self._timeout + 5.0)
        except NoAnswer as error:
            raise MessageBusException(MessageBusExceptionType.timeout, str(error)) from error
        is_ack = all(each.status == "ack" for each in replies_of(data))
        token = DefaultToken.TK_SYS_ACK if is_ack else DefaultToken.TK_SYS_NAK
        return Message(token, DataType.json, json.dumps(data["results"]))

    def send_message(self, component: str, message: Message) -> Message:
        """Sends a message to the service that the ServiceLocator knows by this name; returns its answer."""
        timeout = message.timeout / 1e6 if message.timeout > 0 else self._timeout
        try:
            address = _locate(self._locator_address(), component, timeout, self._hub.curve)
            frames = written(message, b"%d" % message.token) + ([b"%d" % message.timeout] if message.timeout > 0 else [])
            answer = ask(address, frames, timeout)
        except (Unreachable, Nak) as error:
            raise MessageBusException(MessageBusExceptionType.unknown, f"{component}: {error}") from error
        except NoAnswer as error:
            kind = MessageBusExceptionType.timeout if error.may_be_taken else MessageBusExceptionType.unknown
            raise MessageBusException(kind, f"{component}: {error}") from error
        token = read_token(answer[0]) if answer else None
        if token is None:
            raise MessageBusException(MessageBusExceptionType.unknown, f"{component} answered with something that is no message")
        return read(token[0], answer)

    def reply_message(self, message: Message, reply_message: Message) -> None:
        """Answers a message. Of several answers, the first counts."""
        if message.imp_message is not None:
            message.imp_message(reply_message)

    def reply_event(self, event: Event, reply_message: Message) -> None:
        """Answers a sync event. Nobody waits for the answer to an async one, so nothing is sent then."""
        if event.imp_message is not None:
            event.imp_message(reply_message)

    # What is subscribed to.

    def subscribe(self, subject: "Union[str, SubscriptionInfo, Iterable[Union[str, SubscriptionInfo]]]") -> None:
        """Subscribes to one or more subjects, beside the ones before. Nak or NoAnswer if that can't be."""
        several = [subject] if isinstance(subject, (str, SubscriptionInfo)) else list(subject)
        infos = [SubscriptionInfo(each) if isinstance(each, str) else each for each in several]
        with self._lock:
            if self._closed.is_set():
                raise Closed(f"the bus of {self.service_name!r} is closed; nothing was sent")
            before = dict(self._subjects)
            self._subjects.update((each.subject, each.type) for each in infos)
            if not infos or self._subjects.keys() == before.keys():
                return
            self._leave()
            service = Service(
                self.service_name, delivery=self._delivery, retry=self._retry, credit=1000, concurrency=1000, max_handling=86400
            )
            try:
                service.on(*self._subjects, dialect="prefix")(self._taker())
                service.start(self._hub)
            except EventManagerError:
                self._subjects = before
                raise
            self._service = service

    def _leave(self) -> None:
        """Lets the worker before take no more events. What it handles goes on."""
        service, self._service = self._service, None
        if service is None:
            return
        leaving = threading.Thread(target=_stop, args=(service, 86400.0), daemon=True)
        leaving.start()
        leaving.join(1.0)  # By then the daemon knows.
        self._leaving = [each for each in self._leaving if each.is_alive()] + [leaving]

    def handle_events(self, builder: Any) -> None:
        """Handles what comes, until `close`. `builder` is a MessageHandlerBuilder, or what `handler=` may be."""
        self._handle_with(builder)
        self._closed.wait()

    def _handle_with(self, handler: Any) -> None:
        with self._lock:
            if self._builder is not None:
                raise InvalidArgument(f"the bus of {self.service_name!r} has its handler already")
            if not (hasattr(handler, "build_message_handler") or hasattr(handler, "handle_event") or callable(handler)):
                raise InvalidArgument(f"{handler!r} is no MessageHandlerBuilder, no MessageHandler and no function")
            builder: Any = handler if hasattr(handler, "build_message_handler") else Fixed(handler)
            builder.build_singletons()
            self._builder = builder
            local = self._host in ("localhost", "127.0.0.1")
            self._answerer = Answerer("127.0.0.1" if local else "", self._message_came)
            threading.Thread(target=self._register, name=f"{self.service_name}-locator", daemon=True).start()
        self._ready.set_result(None)

    def _register(self) -> None:
        """Says to the ServiceLocator where this service is, again and again."""
        assert self._answerer is not None
        address = f"tcp://{self._host}:{self._answerer.port}"
        wait = 0.0
        while not self._closed.wait(wait):
            try:
                answer = _ask.ask(self._locator_address(), {"token": "3.1", "data": [self.service_name, address]}, 5.0, self._hub.curve)
                ttl = float(answer[0]) / 1000 if answer else 30.0
                self.registered.set()
                wait = ttl / 3
            except (EventManagerError, ValueError) as error:
                log.warning("%s is not registered, trying again: %s", self.service_name, error)
                wait = 1.0
        try:
            _ask.ask(self._locator_address(), {"token": "3.3", "data": [self.service_name, address]}, 1.0, self._hub.curve)
        except EventManagerError:
            pass
        self._gone.set()

    def close(self, drain: float = 5.0, unsubscribe: bool = False) -> None:
        """Takes no more events, lets handlers finish for at most `drain` seconds, and ends. The subscription stays for its
        lease, so that a restart loses nothing; `unsubscribe` ends it. MayBeLost if handlers still run."""
        with self._lock:
            if self._closed.is_set():
                return
            self._closed.set()
            service, self._service = self._service, None
        failure: Optional[MayBeLost] = None
        if service is not None:
            try:
                service.stop(drain if self._ready.done() else 0.0, unsubscribe)
            except MayBeLost as error:
                failure = error if self._ready.done() else None
        if self._builder is not None:
            self._gone.wait(3.0)
        if self._answerer is not None:
            self._answerer.close()
        try:
            self._hub.close(drain)
        finally:
            if self._builder is not None:
                self._builder.destroy_singletons()
        if failure is not None:
            raise failure

    def __enter__(self) -> "ZeroMqMessageBus":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _locator_address(self) -> str:
        if self._locator is None:
            told: Optional[str] = self._hub.status()["addresses"].get("locator")
            if not told:
                raise NoAnswer("the event manager has no ServiceLocator; set SERVICE_LOCATOR_ADDRESS", may_be_taken=False)
            self._locator = told
        return self._locator

    # What comes.

    def _taker(self) -> "Callable[[Received[bytes]], Any]":
        """The function that takes the events of a subscription, in its loop."""
        gate: List[asyncio.Lock] = []

        async def take(event: "Received[bytes]") -> None:
            if not gate:
                gate.append(asyncio.Lock())
            # In their order: what comes when the handler comes would overtake what waits for it.
            async with gate[0]:
                await asyncio.shield(asyncio.wrap_future(self._ready))
            await self._event_came(event)

        return take

    async def _event_came(self, event: "Received[bytes]") -> None:
        came = event_of(event.raw, event.subject)
        kind = self._type_of(came.subject)
        if kind not in (SubscriptionInfo.TYPE_QUEUE, SubscriptionInfo.TYPE_NON_REENTRANT):
            await in_own_thread(self._handle_event, came)
            return
        lane = self._lane(came.subject)
        turn = lane.enter(kind == SubscriptionInfo.TYPE_QUEUE or self.on_busy == "queue")
        if turn is None:
            self._drop()
            return
        await asyncio.wrap_future(turn)
        try:
            await in_own_thread(self._handle_event, came)
        finally:
            lane.leave()

    def _message_came(self, frames: Frames, reply: Reply) -> None:
        """A message of another service, or a sync event."""
        found = read_token(frames[0])
        if found is None:
            raise InvalidArgument("a message's first frame is its token")
        token, write = found

        def answer(message: Message) -> None:
            reply(written(message, write(message.token)))

        if not same_token(token, DefaultToken.TK_EVT_EVENT):
            message = read(token, frames)
            message.imp_message = answer
            threading.Thread(target=self._answer, args=(self._handle_message, message), daemon=True).start()
            return
        event = event_of(frames[2] if len(frames) > 2 else b"", "")
        kind = self._type_of(event.subject)
        if kind == SubscriptionInfo.TYPE_SYNC:
            event.imp_message = answer
            threading.Thread(target=self._answer, args=(self._handle_event, event), daemon=True).start()
            return
        may_wait = kind == SubscriptionInfo.TYPE_QUEUE or self.on_busy == "queue"
        lane = self._lane(event.subject) if kind != SubscriptionInfo.TYPE_REENTRANT else None
        turn = lane.enter(may_wait) if lane is not None else None
        if lane is not None and turn is None:
            self._drop()
        else:
            threading.Thread(target=self._in_turn, args=(lane, turn, event), daemon=True).start()
        answer(AckMessage())

    def _in_turn(self, lane: Optional[Lane], turn: "Optional[Future[None]]", event: Event) -> None:
        if turn is not None:
            turn.result()
        try:
            self._handle_event(event)
        except Exception:
            log.exception("%s: the handler of %s failed, which is answered already", self.service_name, event.subject)
        finally:
            if lane is not None:
                lane.leave()

    def _answer(self, handle: Callable[[Any], None], item: Any) -> None:
        try:
            handle(item)
        except Exception as error:
            log.exception("%s: a handler failed", self.service_name)
            try:
                item.imp_message(NakMessage(f"{type(error).__name__}: {error}", DataType.string))
            except EventManagerError as gone:
                log.warning("%s: %s", self.service_name, gone)

    def _handle_event(self, event: Event) -> None:
        assert self._builder is not None
        handler = self._builder.build_message_handler()
        try:
            handler.handle_event(self, event)
        finally:
            self._builder.destroy_message_handler(handler)

    def _handle_message(self, message: Message) -> None:
        assert self._builder is not None
        handler = self._builder.build_message_handler()
        try:
            handler.handle_message(self, message)
        finally:
            self._builder.destroy_message_handler(handler)

    def _drop(self) -> None:
        with self._lock:
            self.dropped += 1

    def _lane(self, subject: str) -> Lane:
        with self._lock:
            return self._lanes.setdefault(subject, Lane())

    def _type_of(self, subject: str) -> str:
        """The type of the longest subscription that matches."""
        found = [each for each in list(self._subjects) if subject.startswith(each)]
        return self._subjects[max(found, key=len)] if found else SubscriptionInfo.TYPE_REENTRANT


def _located(locator: Optional[str], timeout: float, keys: Optional[Curve]) -> str:
    """Where the ServiceLocator says that the event manager is, as soon as it knows; the default if there is no locator."""
    if locator is None:
        return _hub.DEFAULT_ADDRESS
    deadline = time.monotonic() + timeout
    while True:
        try:
            return _locate(locator, "EventManager", max(0.1, deadline - time.monotonic()), keys)
        except (Nak, NoAnswer) as error:
            if time.monotonic() + 0.1 > deadline:
                raise NoAnswer(f"no event manager is known to {locator}: {error}", may_be_taken=False) from error
        time.sleep(0.1)


def _locate(locator: str, name: str, timeout: float, keys: Optional[Curve]) -> str:
    """The address of a service; Nak `unknown-service` if the ServiceLocator doesn't know it."""
    try:
        return str(_ask.ask(locator, {"token": "3.2", "data": [name]}, timeout, keys))
    except NoAnswer as error:
        raise Unreachable(f"the ServiceLocator does not answer: {error}") from error


def _stop(service: Service, drain: float) -> None:
    try:
        service.stop(drain)
    except EventManagerError as error:
        log.warning("%s: %s", service.name, error)
