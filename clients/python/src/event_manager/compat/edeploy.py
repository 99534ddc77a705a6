"""The API of e-deploy's `messagebus` and `zeromqmessagehandler`, on this daemon.

    from event_manager.compat.edeploy import SubscriptionInfo, ZeroMqMessageBus

    bus = ZeroMqMessageBus("MyService", context)
    bus.subscribe([SubscriptionInfo("OrderCreated", SubscriptionInfo.TYPE_NON_REENTRANT)])
    bus.handle_events(builder)

What their README promises holds: `subscribe` finds the event manager through the ServiceLocator, subscribes, connects to
the service's port, says READY, and prolongs the lease; and all of it again after a restart of either side.

How events of a subject are handled (subjects are prefixes, as there; a subject without a type is REENTRANT):

- REENTRANT: each event has a thread of its own.
- NON_REENTRANT: while an event of this subject is handled, others of it are dropped (`bus.dropped` counts them); with
  `on_busy="queue"` they wait instead.
- QUEUE: the events of a subject are handled one after the other.
- SYNC: the handler answers with `reply_event`. What is no SYNC subject is answered when it has begun.

What differs from theirs, and why:

- An event is acknowledged when its handler has returned, and comes again (`retry`) when it raised. There, a crash or an
  exception loses it. A QUEUE event that failed comes again behind those that wait.
- How their bus is given its handler isn't public. Ours: `handler=` (a MessageHandlerBuilder, a MessageHandler, or a
  function of bus and event), or `handle_events(builder)`. Until there is one, events wait.
- A handler that raises answers a message or a sync event with TK_SYS_NAK, so that nobody waits in vain.
- The async payload isn't public either; it is that of PUBLISH: `data\\0subject\\0type\\0sync\\0source_id`. Other events are
  given to handlers with their second frame as data.
- The `zmq.Context` isn't used: no libzmq is needed. Their UNSUBSCRIBE isn't implemented; ours is `close(unsubscribe=True)`.
- `ZeroMqThreadPool`, `edphelper`, `messageprocessor` and the daemon's own modules are not part of it.
"""

from __future__ import annotations

import asyncio
import enum
import json
import logging
import os
import threading
import time
from collections import deque
from concurrent.futures import Future
from typing import Any, Callable, Deque, Dict, Iterable, List, Literal, Mapping, Optional, Tuple, Union

from .. import _ask, hub as _hub
from .._calls import replies_of
from .._event import Event as _Event
from .._event import subject_bytes
from ..errors import Closed, EventManagerError, InvalidArgument, MayBeLost, Nak, NoAnswer
from .. import Retry, Service
from .._messages import TOKENS, Answerer, Frames, Reply, Unreachable, ask, read_token, same_token

log = logging.getLogger("event_manager")

#: Where the ServiceLocator is, as in their README.
LOCATOR_VARIABLE = "SERVICE_LOCATOR_ADDRESS"
HOSTNAME_VARIABLE = "PUBLIC_HOSTNAME"

TK_EVENT_MANAGER_SUBSCRIBE = TOKENS["TK_EVENT_MANAGER_SUBSCRIBE"]
TK_EVENT_MANAGER_UNSUBSCRIBE = TOKENS["TK_EVENT_MANAGER_UNSUBSCRIBE"]
TK_EVENT_MANAGER_PUBLISH = TOKENS["TK_EVENT_MANAGER_PUBLISH"]
TK_EVENT_MANAGER_KEEP_ALIVE = TOKENS["TK_EVENT_MANAGER_KEEP_ALIVE"]


class DataType(enum.IntEnum):
    """What a message's data is."""

    empty = 0
    undefined = 0
    xml = 1
    param = 2
    addr_port = 3
    int32 = 4
    int64 = 5
    string = 6
    str_array_pipe = 7
    jpg = 8
    png = 9
    gif = 10
    pdf = 11
    swagger = 12
    json = 13


class TokenPriority(enum.IntEnum):
    """The first digit of a token; the event manager doesn't look at it."""

    low = 0x0
    normal = 0x7
    high = 0xF


class TokenCreator:
    """Makes tokens."""

    @staticmethod
    def create_token(priority: "Union[TokenPriority, int, str]", group: "Union[int, str]", number: "Union[int, str]") -> int:
        """The token of a group and a number; as text they are hexadecimal. InvalidArgument if they can't be."""
        try:
            first, second, third = (int(each, 16) if isinstance(each, str) else int(each) for each in (priority, group, number))
        except ValueError:
            raise InvalidArgument(f"a token's parts are hexadecimal, not {(priority, group, number)!r}") from None
        if not (0 <= first <= 0xF and 0 <= second <= 0xFFF and 0 <= third <= 0xFFFF):
            raise InvalidArgument(f"a token has a priority to F, a group to FFF and a number to FFFF: {(priority, group, number)!r}")
        return first << (32 if second > 0xFF else 28) | second << 20 | third


class DefaultToken:
    """Tokens that every service knows."""

    TK_SYS_ACK = TOKENS["TK_SYS_ACK"]
    TK_SYS_NAK = TOKENS["TK_SYS_NAK"]
    TK_EVT_EVENT = TOKENS["TK_EVT_EVENT"]


class Message:
    """A message of one service to another, or its answer. `timeout` is in microseconds; -1 is the bus's own."""

    def __init__(self, token: int, data_type: "Union[DataType, int, str]" = DataType.empty, data: Any = None, timeout: int = -1) -> None:
        self.token = token
        self.data_type = data_type
        self.data = data
        self.timeout = timeout
        #: How to answer it; used by the bus.
        self.imp_message: Any = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(0x{self.token:08X}, {self.data_type!r}, {self.data!r})"


class AckMessage(Message):
    """The answer that says yes. Data without a type is JSON."""

    _token = DefaultToken.TK_SYS_ACK

    def __init__(self, data: Any = None, data_type: "Union[DataType, int, str, None]" = None) -> None:
        if data_type is None:
            data_type = DataType.empty if data is None else DataType.json
        super().__init__(self._token, data_type, data)


class NakMessage(AckMessage):
    """The answer that says no."""

    _token = DefaultToken.TK_SYS_NAK


class SwaggerMessage(Message):
    """An answer as of HTTP: a status, a body and headers. They are sent as a JSON object."""

    def __init__(self, status_code: int, body: Optional[str] = None, headers: Optional[Mapping[str, str]] = None) -> None:
        self.status_code = status_code
        self.body = body
        self.headers = dict(headers) if headers is not None else None
        super().__init__(DefaultToken.TK_SYS_ACK, DataType.swagger)
        self.data = json.dumps({"status_code": status_code, "body": body, "headers": self.headers})


class JsonSwaggerMessage(SwaggerMessage):
    """A SwaggerMessage whose body is JSON, unless its headers say otherwise."""

    def __init__(self, status_code: int, body: Optional[str] = None, headers: Optional[Mapping[str, str]] = None) -> None:
        super().__init__(status_code, body, {"Content-Type": "application/json; charset=utf-8", **(headers or {})})


class Event:
    """An event. A sync one is answered by the services that are subscribed to its subject."""

    def __init__(
        self, subject: str, type: Optional[str] = None, data: Any = None, source_id: Optional[int] = None, sync: bool = False
    ) -> None:
        self.subject = subject
        self.type = type
        self.data = data
        self.source_id = source_id
        self.sync = sync
        self.imp_message: Any = None

    def __repr__(self) -> str:
        return f"Event({self.subject!r}, {self.type!r}, {self.data!r}, {self.source_id!r}, {self.sync!r})"


class MessageBusExceptionType(enum.Enum):
    """Why a message has no answer: it took too long, or the service isn't known or can't be reached."""

    timeout = "timeout"
    unknown = "unknown"


class MessageBusException(EventManagerError):
    """A message has no answer. With `timeout` the service may have got it, with `unknown` it didn't."""

    def __init__(self, type: MessageBusExceptionType, sentence: str = "") -> None:
        super().__init__(sentence or f"no answer: {type.value}")
        self.type = type


class SubscriptionInfo:
    """A subject, and how its events are handled."""

    TYPE_REENTRANT = "REENTRANT"
    TYPE_NON_REENTRANT = "NON_REENTRANT"
    TYPE_QUEUE = "QUEUE"
    TYPE_SYNC = "SYNC"

    def __init__(self, subject: str, type: str = TYPE_REENTRANT) -> None:
        if type not in (self.TYPE_REENTRANT, self.TYPE_NON_REENTRANT, self.TYPE_QUEUE, self.TYPE_SYNC):
            raise InvalidArgument(f"{type!r} is no type of a subscription; use one of SubscriptionInfo.TYPE_…")
        self.subject = subject
        self.type = type

    def __repr__(self) -> str:
        return f"SubscriptionInfo({self.subject!r}, {self.type!r})"


class MessageBus:
    """What every bus has."""

    def publish_event(self, event: Event) -> Message:
        """Publishes an event. Of a sync one, the answer is what the services said."""
        raise NotImplementedError

    def send_message(self, component: str, message: Message) -> Message:
        """Sends a message to a service, and returns its answer."""
        raise NotImplementedError

    def subscribe(self, subject: Any) -> None:
        """Subscribes."""
        raise NotImplementedError

    def reply_message(self, message: Message, reply_message: Message) -> None:
        """Answers a message."""
        raise NotImplementedError

    def reply_event(self, event: Event, reply_message: Message) -> None:
        """Answers a sync event; what is async is not answered."""
        raise NotImplementedError


class MessageHandler:
    """Handles what comes. One is made for each event and each message."""

    def handle_message(self, message_bus: MessageBus, message: Message) -> None:
        """Handles a message; answers with `message_bus.reply_message`."""
        raise NotImplementedError

    def handle_event(self, message_bus: MessageBus, event: Event) -> None:
        """Handles an event; answers with `message_bus.reply_event` if it is sync."""
        raise NotImplementedError


class MessageHandlerBuilder:
    """Makes handlers."""

    def build_singletons(self) -> None:
        """Called once, before the first event."""
        raise NotImplementedError

    def build_message_handler(self) -> Any:
        """Called for each event and message: the handler for it."""
        raise NotImplementedError

    def destroy_message_handler(self, message_handler: Any) -> None:
        """Called when the handler is done."""
        raise NotImplementedError

    def destroy_singletons(self) -> None:
        """Called once, at the end."""
        raise NotImplementedError


class _Fixed(MessageHandlerBuilder):
    """One handler for all, or a function."""

    def __init__(self, handler: Any) -> None:
        self._handler = _Function(handler) if not hasattr(handler, "handle_event") else handler

    def build_singletons(self) -> None:
        pass

    def build_message_handler(self) -> Any:
        return self._handler

    def destroy_message_handler(self, message_handler: Any) -> None:
        pass

    def destroy_singletons(self) -> None:
        pass


class _Function(MessageHandler):
    def __init__(self, function: Callable[[Any, Any], None]) -> None:
        self.handle_event = function  # type: ignore[assignment, method-assign]


class _Lane:
    """The events of one subject that may not be handled at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy = False
        self._waiting: "Deque[Future[None]]" = deque()

    def enter(self, may_wait: bool) -> "Optional[Future[None]]":
        """What is done when it is the caller's turn; None if it is taken and the caller may not wait."""
        turn: "Future[None]" = Future()
        with self._lock:
            if self._busy:
                if not may_wait:
                    return None
                self._waiting.append(turn)
                return turn
            self._busy = True
        turn.set_result(None)
        return turn

    def leave(self) -> None:
        with self._lock:
            if not self._waiting:
                self._busy = False
                return
            turn = self._waiting.popleft()
        turn.set_result(None)


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
        retry: Retry = Retry(),
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
        self._delivery, self._retry, self._timeout = delivery, retry, timeout
        named = locator or os.environ.get(LOCATOR_VARIABLE)
        self._hub = _hub.connect(address or os.environ.get(_hub.ADDRESS_VARIABLE) or _located(named, timeout), timeout=timeout)
        self._locator = named
        self._host = public_hostname or os.environ.get(HOSTNAME_VARIABLE) or "localhost"
        self._lock = threading.RLock()
        self._subjects: Dict[str, str] = {}
        self._lanes: Dict[str, _Lane] = {}
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
                receipt = self._hub.emit(event.subject, _payload(event))
            except NoAnswer as error:
                raise MessageBusException(MessageBusExceptionType.timeout, str(error)) from error
            return Message(DefaultToken.TK_SYS_ACK, DataType.json, json.dumps({"id": receipt.id, "services": receipt.services}))
        fields: Dict[str, Any] = {
            "token": "publish", "subject": event.subject, "payload": _text(event.data), "sync": "true",
            "type": event.type or "", "source_id": "" if event.source_id is None else str(event.source_id),
            "timeout": round(self._timeout * 1e6),
        }  # fmt: skip
        try:
            data = _ask.ask(self._hub.address, fields, self._timeout + 5.0)
        except NoAnswer as error:
            raise MessageBusException(MessageBusExceptionType.timeout, str(error)) from error
        is_ack = all(each.status == "ack" for each in replies_of(data))
        token = DefaultToken.TK_SYS_ACK if is_ack else DefaultToken.TK_SYS_NAK
        return Message(token, DataType.json, json.dumps(data["results"]))

    def send_message(self, component: str, message: Message) -> Message:
        """Sends a message to the service that the ServiceLocator knows by this name; returns its answer."""
        timeout = message.timeout / 1e6 if message.timeout > 0 else self._timeout
        try:
            address = _locate(self._locator_address(), component, timeout)
            frames = _written(message, b"%d" % message.token) + ([b"%d" % message.timeout] if message.timeout > 0 else [])
            answer = ask(address, frames, timeout)
        except (Unreachable, Nak) as error:
            raise MessageBusException(MessageBusExceptionType.unknown, f"{component}: {error}") from error
        except NoAnswer as error:
            kind = MessageBusExceptionType.timeout if error.may_be_taken else MessageBusExceptionType.unknown
            raise MessageBusException(kind, f"{component}: {error}") from error
        token = read_token(answer[0]) if answer else None
        if token is None:
            raise MessageBusException(MessageBusExceptionType.unknown, f"{component} answered with something that is no message")
        return _read(token[0], answer)

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
                service.on(*self._subjects, dialect="prefix")(self._event_came)
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
            builder = handler if hasattr(handler, "build_message_handler") else _Fixed(handler)
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
                answer = _ask.ask(self._locator_address(), {"token": "3.1", "data": [self.service_name, address]}, 5.0)
                ttl = float(answer[0]) / 1000 if answer else 30.0
                self.registered.set()
                wait = ttl / 3
            except (EventManagerError, ValueError) as error:
                log.warning("%s is not registered, trying again: %s", self.service_name, error)
                wait = 1.0
        try:
            _ask.ask(self._locator_address(), {"token": "3.3", "data": [self.service_name, address]}, 1.0)
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

    async def _event_came(self, event: "_Event[bytes]") -> None:
        await asyncio.shield(asyncio.wrap_future(self._ready))
        came = _event_of(event.raw, event.subject)
        kind = self._type_of(came.subject)
        if kind not in (SubscriptionInfo.TYPE_QUEUE, SubscriptionInfo.TYPE_NON_REENTRANT):
            await _in_own_thread(self._handle_event, came)
            return
        lane = self._lane(came.subject)
        turn = lane.enter(kind == SubscriptionInfo.TYPE_QUEUE or self.on_busy == "queue")
        if turn is None:
            self._drop()
            return
        await asyncio.wrap_future(turn)
        try:
            await _in_own_thread(self._handle_event, came)
        finally:
            lane.leave()

    def _message_came(self, frames: Frames, reply: Reply) -> None:
        """A message of another service, or a sync event."""
        read = read_token(frames[0])
        if read is None:
            raise InvalidArgument("a message's first frame is its token")
        token, write = read

        def answer(message: Message) -> None:
            reply(_written(message, write(message.token)))

        if not same_token(token, DefaultToken.TK_EVT_EVENT):
            message = _read(token, frames)
            message.imp_message = answer
            threading.Thread(target=self._answer, args=(self._handle_message, message), daemon=True).start()
            return
        event = _event_of(frames[2] if len(frames) > 2 else b"", "")
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

    def _in_turn(self, lane: Optional[_Lane], turn: "Optional[Future[None]]", event: Event) -> None:
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

    def _lane(self, subject: str) -> _Lane:
        with self._lock:
            return self._lanes.setdefault(subject, _Lane())

    def _type_of(self, subject: str) -> str:
        """The type of the longest subscription that matches."""
        found = [each for each in list(self._subjects) if subject.startswith(each)]
        return self._subjects[max(found, key=len)] if found else SubscriptionInfo.TYPE_REENTRANT


def _located(locator: Optional[str], timeout: float) -> str:
    """Where the ServiceLocator says that the event manager is, as soon as it knows; the default if there is no locator."""
    if locator is None:
        return _hub.DEFAULT_ADDRESS
    deadline = time.monotonic() + timeout
    while True:
        try:
            return _locate(locator, "EventManager", max(0.1, deadline - time.monotonic()))
        except (Nak, NoAnswer) as error:
            if time.monotonic() + 0.1 > deadline:
                raise NoAnswer(f"no event manager is known to {locator}: {error}", may_be_taken=False) from error
        time.sleep(0.1)


def _locate(locator: str, name: str, timeout: float) -> str:
    """The address of a service; Nak `unknown-service` if the ServiceLocator doesn't know it."""
    try:
        return str(_ask.ask(locator, {"token": "3.2", "data": [name]}, timeout))
    except NoAnswer as error:
        raise Unreachable(f"the ServiceLocator does not answer: {error}") from error


def _stop(service: Service, drain: float) -> None:
    try:
        service.stop(drain)
    except EventManagerError as error:
        log.warning("%s: %s", service.name, error)


async def _in_own_thread(function: Callable[[Event], None], event: Event) -> None:
    """Runs it in a thread of its own: a pool's size would bound how many run."""
    done: "Future[None]" = Future()

    def run() -> None:
        try:
            function(event)
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(None)

    threading.Thread(target=run, name=f"event-{event.subject}", daemon=True).start()
    await asyncio.wrap_future(done)


def _text(data: Any) -> str:
    if data is None:
        return ""
    if isinstance(data, (bytes, bytearray)):
        try:
            return bytes(data).decode()
        except UnicodeDecodeError:
            raise InvalidArgument("the data of an event is text in UTF-8; nothing was sent") from None
    return str(data)


def _payload(event: Event) -> bytes:
    source = "" if event.source_id is None else str(event.source_id)
    fields = [_text(event.data), event.subject, event.type or "", "true" if event.sync else "false", source]
    if any("\0" in each for each in fields):
        raise InvalidArgument("an event's fields contain no NUL; nothing was sent")
    return "\0".join(fields).encode()


def _event_of(payload: bytes, subject: str) -> Event:
    """The event in a payload; one that isn't of this form is the data of the subject under which it came."""
    fields = payload.decode("utf-8", "replace").split("\0")
    if len(fields) < 2 or (subject and fields[1] != subject):
        return Event(subject, None, _data(payload))
    fields += [""] * 5
    number = fields[4].lstrip("-")
    source = int(fields[4]) if number.isascii() and number.isdigit() else None
    return Event(fields[1], fields[2] or None, fields[0], source, fields[3].lower() == "true")


def _data(frame: bytes) -> Any:
    try:
        return frame.decode()
    except UnicodeDecodeError:
        return frame


def _written(message: Message, token: bytes) -> Frames:
    """A message's frames."""
    kind = message.data_type
    data = message.data
    if data is None:
        body = b""
    elif isinstance(data, (bytes, bytearray)):
        body = bytes(data)
    elif isinstance(data, str):
        body = data.encode()
    else:
        try:
            body = json.dumps(data).encode()
        except (TypeError, ValueError) as error:
            raise InvalidArgument(f"the data of a message can't be written: {error}; nothing was sent") from error
    name = kind.encode() if isinstance(kind, str) else b"json" if kind == DataType.json else b"%d" % kind
    return [token, name, body]


def _read(token: int, frames: Frames) -> Message:
    """A message from its frames."""
    kind = _data_type(frames[1]) if len(frames) > 2 else DataType.param
    body = frames[2] if len(frames) > 2 else frames[1] if len(frames) > 1 else b""
    timeout = frames[3] if len(frames) > 3 else b""
    message = Message(token, kind if body else DataType.empty, _data(body) if body else None)
    if timeout.isdigit():
        message.timeout = int(timeout)
    return message


def _data_type(frame: bytes) -> "Union[DataType, int, str]":
    text = frame.decode("ascii", "replace")
    if text.lower() in DataType.__members__:
        return DataType[text.lower()]
    number: int
    if text.isdigit():
        number = int(text)
    elif len(frame) in (1, 4, 8) and text[:2] not in ("0x", "0X"):
        number = int.from_bytes(frame, "little")
    else:
        try:
            number = int(text or "0", 0)
        except ValueError:
            return text
    return DataType(number) if number in DataType._value2member_map_ else number


__all__: Tuple[str, ...] = (
    "AckMessage",
    "DataType",
    "DefaultToken",
    "Event",
    "JsonSwaggerMessage",
    "Message",
    "MessageBus",
    "MessageBusException",
    "MessageBusExceptionType",
    "MessageHandler",
    "MessageHandlerBuilder",
    "NakMessage",
    "SubscriptionInfo",
    "SwaggerMessage",
    "TK_EVENT_MANAGER_KEEP_ALIVE",
    "TK_EVENT_MANAGER_PUBLISH",
    "TK_EVENT_MANAGER_SUBSCRIBE",
    "TK_EVENT_MANAGER_UNSUBSCRIBE",
    "TokenCreator",
    "TokenPriority",
    "ZeroMqMessageBus",
)
