"""The connection to a daemon: publish, emit, call, subscribe."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Literal, Mapping, NamedTuple, Optional, Sequence, Set, Tuple, Type, TypeVar, Union, overload

from . import _address, _calls, _check, _emit, _event, _typed
from ._calls import Reply
from ._core import Core
from .errors import (
    Closed,
    EventManagerError,
    InvalidArgument,
    MayBeLost,
    NoAnswer,
)

if TYPE_CHECKING:
    from .codecs import Codec
    from .curve import Curve
    from .hooks import Hooks, Told
    from .lease import Lease
    from .letters import DeadLetters
    from ._subscriber import Subscription
    from .status import Status

log = logging.getLogger("event_manager")
T = TypeVar("T")

#: Where `connect` looks if it is given no address, or no keys; `event_manager.curve` reads those.
ADDRESS_VARIABLE = "EVENT_MANAGER_CLIENT_ADDRESS"
_KEY_VARIABLES = ("EVENT_MANAGER_KEY", "EVENT_MANAGER_SERVER_KEY")
DEFAULT_ADDRESS = "tcp://localhost:5101"
#: A name's bytes in UTF-8 that the daemon keeps.
NAME_MAX_BYTES = 64


class Receipt(NamedTuple):
    """What became of an emitted event: how many services have it, and whether on disk ("disk") or in memory.

    `duplicate`: the daemon had an event with this id before, and accepted it only once. `reason`: why the
    level is not the one that was asked for, if an engine does not have the event yet.
    """

    id: str
    services: int
    level: str
    duplicate: bool
    reason: Optional[str] = None


def _receipt(event_id: str, answer: Dict[str, Any]) -> Receipt:
    reason = answer.get("reason")
    return Receipt(event_id, answer["services"], answer["level"], answer["duplicate"], reason)


class Stats(NamedTuple):
    """Counts of events since the hub was made. `lost` may be lost: see MayBeLost."""

    published: int
    lost: int


class Hub:
    """A connection to a daemon, which comes back by itself. Every method may be called by any thread.

    In a child process (fork) it connects anew; what the parent had not sent yet is sent by the parent only.
    `timeout` (seconds) is how long methods wait if they aren't told otherwise.
    """

    def __init__(
        self,
        address: str,
        timeout: float,
        max_pending_bytes: int,
        *,
        codec: "Optional[Codec]" = None,
        compress_above: Optional[int] = None,
        compression: str = "deflate",
        hooks: "Sequence[Hooks]" = (),
        locator: Optional[str] = None,
        name: Optional[str] = None,
        curve: "Union[Curve, Literal[False], None]" = None,
    ) -> None:
        if _check.seconds(timeout) <= 0:
            raise InvalidArgument("timeout has to be positive")
        _check.whole(max_pending_bytes, "max_pending_bytes", 1, 1 << 40)
        if name is not None:
            _check.text(name, "a name", NAME_MAX_BYTES)
            if not name.isprintable():
                raise InvalidArgument(f"a name has 1 to {NAME_MAX_BYTES} bytes that can be shown: {name!r}")
        if codec is not None:
            _check.has(codec, "a codec", "encode", "decoder")
        given: Any = hooks or ()
        hooks = given if isinstance(given, (list, tuple)) else (given,)
        for each in hooks:
            _check.has(each, "a hook", "on_publish", "on_consume")
        #: The keys of its connections; None if they are not encrypted.
        self.curve = keys_for(curve)
        self._name = name
        # With an empty address, the locator tells it.
        self._endpoint = _address.parse(address) if address else None
        self._locator = None if locator is None else _address.parse(locator)
        self._timeout = timeout
        self._max_pending_bytes = max_pending_bytes
        self._codec = codec
        self._compress_above = compress_above
        self._compression = compression
        if compress_above is not None:
            from . import _compression

            _check.whole(compress_above, "compress_above", 0, 1 << 40)
            self._compress = _compression.compressor(compression)
        self._told: "Optional[Told]" = None
        if hooks:
            from .hooks import Told

            self._told = Told(hooks)
        #: Whether bodies and headers are not simply those of `_event.encode`.
        self._packs = codec is not None or compress_above is not None or bool(hooks)
        self._lock = threading.Lock()
        self._closed = False
        self._core: Optional[Core] = self._make_core()
        _hubs.add(self)

    def publish(self, subject: str, body: Any = b"", *, headers: Optional[Mapping[str, str]] = None) -> None:
        """Publishes an event, to be sent as soon as there is a connection.

        Bytes are sent as they are, text as UTF-8, everything else as JSON, or as the hub's codec does. It returns at once, unless
        `max_pending_bytes` wait to be sent: then it waits, and raises NoAnswer after the hub's timeout; the event was
        not taken then. `flush` tells whether the daemon has taken what was published.
        """
        if self._packs:
            body, headers = self._pack(subject, body, headers)
        event = _event.encode(subject, body, headers)
        publisher = (self._core or self._alive()).publisher
        if not publisher.offer(event):
            publisher.publish(event, self._timeout)

    def _pack(self, subject: str, body: Any, headers: Optional[Mapping[str, str]]) -> Tuple[bytes, Optional[Mapping[str, str]]]:
        """The bytes of a body, and the headers that tell how to read it."""
        more: Dict[str, str] = {}
        if isinstance(body, (bytes, bytearray, memoryview)):
            data = bytes(body)
        elif self._codec is None:
            data = _typed.encode(body)
        else:
            data = self._codec.encode(body)
            if self._codec.content_type != "application/json":
                more["content-type"] = self._codec.content_type
        if headers:
            _typed.check_headers(headers)
            more.update(headers)
        if self._told is not None:
            self._told.on_publish(subject, data, more)
        above = self._compress_above
        if above is not None and len(data) > above and "content-encoding" not in more:
            smaller = self._compress(data)
            if len(smaller) < len(data):
                data, more["content-encoding"] = smaller, self._compression
        return data, more

    def flush(self, timeout: Optional[float] = None) -> None:
        """Waits until the daemon has taken all that was published before; MayBeLost if that isn't sure."""
        self._alive().publisher.flush(self._timeout if timeout is None else _check.seconds(timeout))

    def emit(
        self,
        subject: str,
        body: Any = b"",
        *,
        id: Optional[str] = None,
        level: Literal["memory", "disk", "engine"] = "memory",
        ttl: Optional[float] = None,
        deliver_at: Optional[float] = None,
        headers: Optional[Mapping[str, str]] = None,
        timeout: Optional[float] = None,
    ) -> Receipt:
        """Publishes an event and waits until the daemon confirms it; it is sent until then, always with the same id.

        `level` "disk": it is on the disk of each durable service that it matched; "engine": beyond that, the engines of services
        that have their queues there have it. `ttl`: seconds after which workers don't
        get it any more. `deliver_at`: nobody gets it before this time, in seconds since 1970. NoAnswer after `timeout`
        seconds: it may have been taken, and may be emitted again with the same id. Nak: see docs/protocol.md.
        """
        event_id, answer = self._emit(subject, body, id, level, ttl, deliver_at, headers, timeout)
        return _receipt(event_id, answer.result())

    def _emit(
        self,
        subject: str,
        body: Any,
        id: Optional[str],
        level: str,
        ttl: Optional[float],
        deliver_at: Optional[float],
        headers: Optional[Mapping[str, str]],
        timeout: Optional[float],
    ) -> Tuple[str, "Future[Any]"]:
        """Sends an EMIT; returns the event's id, and what becomes the answer."""
        if level not in ("memory", "disk", "engine"):
            raise InvalidArgument(f"level is 'memory', 'disk' or 'engine', not {level!r}; nothing was sent")
        _event.subject_bytes(subject)
        event_id = _new_id() if id is None else id
        _check.text(event_id, "an id", 1 << 16)  # The daemon's own limit is its own matter.
        if ttl is not None:
            _check.number(ttl, "ttl", 0.001, 31_622_400, " seconds")
        if deliver_at is not None:
            _check.number(deliver_at, "deliver_at", 0, 1e11, " seconds since 1970")
        if self._packs:
            data, headers = self._pack(subject, body, headers)
        else:
            data = _typed.encode(body)
        wait = self._timeout if timeout is None else timeout
        requests = self._alive().requests
        frames = [subject.encode(), data]
        if headers:
            frames.append(_typed.encode_headers(headers))
        return event_id, _emit.emit(requests, event_id, level, frames, ttl, deliver_at, wait)

    @overload
    def call(self, subject: str, body: Any = b"", *, answers: Literal["first"] = "first", timeout: float = 30.0) -> Any: ...
    @overload
    def call(self, subject: str, body: Any = b"", *, answers: Literal["first"] = "first", timeout: float = 30.0, reply: Type[T]) -> T: ...
    @overload
    def call(self, subject: str, body: Any = b"", *, answers: Literal["all"], timeout: float = 30.0) -> List[Reply]: ...

    def call(
        self,
        subject: str,
        body: Any = b"",
        *,
        answers: Literal["first", "all"] = "first",
        timeout: float = 30.0,
        reply: Any = dict,
    ) -> Any:
        """Asks the services that are subscribed to a subject; waits at most `timeout` seconds for them.

        "first": the first service's answer, read as the type `reply`. NoResponders, CallTimeout or CallRefused if there
        is none. "all": what became of it at each service. A body is text, or what can be written as JSON,
        whatever the hub's codec is.
        """
        decode = _typed.decoder(reply)
        try:
            data = self._call(subject, body, answers, timeout).result()
        except NoAnswer as error:
            raise _calls.unanswered(error) from error
        replies = _calls.replies_of(data)
        return replies if answers == "all" else _calls.first(subject, replies, decode, timeout)

    def _call(self, subject: str, body: Any, answers: str, timeout: float) -> "Future[Any]":
        """Sends a PUBLISH; returns what becomes the answer."""
        if answers not in ("first", "all"):
            raise InvalidArgument(f"answers is 'first' or 'all', not {answers!r}; nothing was sent")
        _event.subject_bytes(subject)
        try:
            text = _typed.encode(body).decode()
        except UnicodeDecodeError:
            raise InvalidArgument("the body of a call is text in UTF-8; nothing was sent") from None
        most = min(max(_check.seconds(timeout), 0.0), 31_622_400.0)
        fields: Dict[str, Any] = {"token": "publish", "subject": subject, "payload": text, "timeout": round(most * 1e6)}
        if answers == "first":
            fields["answers"] = "first"
        # The daemon's own timeout comes first.
        return self._alive().requests.ask(fields, timeout + self._timeout, repeatable=False)

    def subscribe(
        self,
        *subjects: str,
        queue: int = 10_000,
        queue_bytes: int = 64 << 20,
        when_full: Literal["drop-oldest", "drop-newest"] = "drop-oldest",
        timeout: Optional[float] = None,
        wait: bool = True,
    ) -> "Subscription":
        """Subscribes to every event whose subject begins with one of these texts ("" is everything).

        When it returns, the daemon has subscribed it. NoAnswer after `timeout` seconds. Without `wait` it returns at once, and
        events come as soon as there is a connection. At most `queue` events of `queue_bytes` together wait to be taken.
        """
        subscription = self._subscribe(subjects, queue, queue_bytes, when_full)
        if not wait:
            return subscription
        try:
            subscription.wait(self._timeout if timeout is None else timeout)
        except NoAnswer:
            subscription.close()
            raise
        return subscription

    def _subscribe(self, subjects: Sequence[str], queue: int, queue_bytes: int, when_full: str) -> "Subscription":
        """Begins to subscribe."""
        from ._subscriber import Subscription

        if not subjects or when_full not in ("drop-oldest", "drop-newest"):
            raise InvalidArgument("subscribe wants a subject, and when_full drop-oldest or drop-newest")
        _check.whole(queue, "queue", 1, 1 << 40)
        _check.whole(queue_bytes, "queue_bytes", 1, 1 << 40)
        prefixes = [_check.text(subject, "a subject's beginning", _event.SUBJECT_MAX_BYTES, least=0) for subject in subjects]
        core = self._alive()
        subscription = Subscription(
            core.loop,
            prefixes,
            queue,
            queue_bytes,
            when_full == "drop-oldest",
            lambda ended: core.loop.call_soon(lambda: _remove(core.subscriptions, ended)),
        )
        core.loop.call_soon(lambda: core.subscribe(subscription))
        return subscription

    def dead_letters(self, service: str) -> "DeadLetters":
        """The dead letters of a service that the daemon keeps: to list, show, replay and delete them."""
        from .letters import DeadLetters

        return DeadLetters(lambda fields: self._alive().requests.ask(fields, self._timeout).result(), service)

    def lease(
        self,
        name: str,
        *,
        ttl: float = 10.0,
        holder: Optional[str] = None,
        wait: Optional[float] = None,
        on_lost: Optional[Callable[[], None]] = None,
    ) -> "Lease":
        """A lease: of all programs that want it, one has it at a time. `with` waits until it is held, for at most `wait` seconds
        (None: for ever), renews it meanwhile, releases it at the end, and raises LeaseLost if it was lost before.

        `ttl`: seconds after which another may have it if it can't be renewed. `holder`: what this program calls itself, which no
        other may; None makes one up. `on_lost` is called in the hub's thread when it is lost; `Lease.lost` is set then, and
        `Lease.held` and `Lease.check` tell. Nothing is asked before `with`, or `Lease.acquire`.
        """
        from .lease import Lease

        return Lease(self, name, ttl=ttl, holder=holder, wait=wait, on_lost=on_lost)

    def request(self, fields: Mapping[str, Any], *, repeatable: bool = False, timeout: Optional[float] = None) -> Any:
        """Sends any request of docs/protocol.md, such as `{"token": "keep_alive", "id": "a"}`, and returns the `data` of its answer.

        Nak if it is refused, NoAnswer after `timeout` seconds. If the connection ends before the answer, a `repeatable` one is sent
        again; the others are NoAnswer.
        """
        return self._request(fields, repeatable, timeout).result()

    def _request(self, fields: Mapping[str, Any], repeatable: bool, timeout: Optional[float]) -> "Future[Any]":
        if not isinstance(fields, Mapping) or not isinstance(fields.get("token"), str):
            raise InvalidArgument("a request has a token, such as {'token': 'status'}; nothing was sent")
        try:
            return self._alive().requests.ask(dict(fields), self._timeout if timeout is None else timeout, repeatable=repeatable)
        except (TypeError, ValueError) as error:
            if isinstance(error, EventManagerError):
                raise
            raise InvalidArgument(f"the request can't be written as JSON: {error}; nothing was sent") from error

    def status(self, timeout: Optional[float] = None) -> "Status":
        """The daemon's state: docs/status.md explains each field."""
        wait = self._timeout if timeout is None else timeout
        status: "Status" = self._alive().requests.ask({"token": "status"}, wait).result()
        return status

    @property
    def address(self) -> str:
        """Where the daemon answers requests; empty as long as the locator hasn't told."""
        if self._endpoint is not None:
            return str(self._endpoint)
        return self._alive().located

    @property
    def timeout(self) -> float:
        """Seconds that methods wait if they aren't told otherwise."""
        return self._timeout

    @property
    def stats(self) -> Stats:
        """Counts of events, in this process."""
        publisher = self._alive().publisher
        return Stats(publisher.published, publisher.lost)

    def close(self, drain: float = 5.0) -> None:
        """Stops the services that run on it and sends what is published, for at most `drain` seconds each, and closes all.
        MayBeLost if something is left."""
        with self._lock:
            core, self._core = self._core, None
            self._closed = True
        _hubs.discard(self)
        if core is None:
            return
        failure: Optional[MayBeLost] = None
        for each in list(core.services):
            try:
                each.stop(drain, False)
            except MayBeLost as error:
                failure = error
        try:
            core.publisher.flush(drain)
        except MayBeLost as error:
            failure = error
        core.close()
        if failure is not None:
            raise failure

    def __enter__(self) -> "Hub":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make_core(self) -> Core:
        return Core(self._endpoint, self._max_pending_bytes, self._told, self._locator, self._name, self.curve)

    def _alive(self) -> Core:
        core = self._core
        if core is not None:
            return core
        with self._lock:
            if self._closed:
                raise Closed("the hub is closed; nothing was sent; connect again to go on")
            if self._core is None:  # This is a child process.
                self._core = self._make_core()
            return self._core

    def _forked(self) -> None:
        self._lock = threading.Lock()
        core, self._core = self._core, None
        if core is not None:
            core.loop.abandon()
            for subscription in core.subscriptions:
                subscription.forked()
            for service in core.services:
                service.forked()


def connect(
    address: Optional[str] = None,
    *,
    timeout: float = 5.0,
    max_pending_bytes: int = 64 << 20,
    codec: "Optional[Codec]" = None,
    compress_above: Optional[int] = None,
    compression: Literal["deflate", "zstd"] = "deflate",
    hooks: "Sequence[Hooks]" = (),
    locator: Optional[str] = None,
    name: Optional[str] = None,
    curve: "Union[Curve, Literal[False], None]" = None,
) -> Hub:
    """A hub for the daemon that answers requests at this address.

    Without one: where the ServiceLocator at `locator` knows an event manager, now and whenever it has to connect again; without that,
    the environment's EVENT_MANAGER_CLIENT_ADDRESS, else tcp://localhost:5101. It returns at once, also if there
    is no daemon: the hub connects when there is one. `timeout` is how many seconds its methods wait;
    `max_pending_bytes` of events may wait to be sent, and as much of requests for their answers.

    `codec`: how bodies are written that aren't bytes, one of `event_manager.codecs`; None is JSON. `compress_above`: bodies with
    more bytes are compressed, if that makes them smaller; their receivers have to know the header `content-encoding`, as those of
    this package do. None: none are. `hooks`: what is told of all that happens; see `event_manager.hooks`.

    `name`: what the daemon shows of this program's workers (`event-manager services --verbose`, the dashboard). `curve`: keys for
    encrypted connections, see `Curve`; nothing is ever sent in the clear instead. None: those that the environment's
    EVENT_MANAGER_SERVER_KEY and EVENT_MANAGER_KEY name, if it does; False: none, whatever the environment has.
    """
    if not address and locator is None:
        address = os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS
    return Hub(
        address or "",
        timeout,
        max_pending_bytes,
        codec=codec,
        compress_above=compress_above,
        compression=compression,
        hooks=hooks,
        locator=locator,
        name=name,
        curve=curve,
    )


def keys_for(curve: "Union[Curve, Literal[False], None]") -> "Optional[Curve]":
    """The keys that are meant, ready to be used."""
    if curve is False or (curve is None and not any(os.environ.get(each) for each in _KEY_VARIABLES)):
        return None
    from .curve import Curve

    if curve is None:
        curve = Curve.from_environment()
    if not isinstance(curve, Curve):
        raise InvalidArgument(f"curve is an event_manager.Curve, None or False, not {type(curve).__name__}; nothing was sent")
    curve.prepare()
    return curve


def _remove(items: "List[Subscription]", item: "Subscription") -> None:
    if item in items:
        items.remove(item)


def _new_id() -> str:
    """A UUID of version 7: ids sort by their time. The module `uuid` takes long to import."""
    number = round(time.time() * 1000) << 80 | int.from_bytes(os.urandom(10), "big")
    number = number & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


#: Hubs that are not closed; at the end of the program they are.
_hubs: Set["Hub"] = set()


def _after_fork() -> None:
    for hub in list(_hubs):
        hub._forked()


def _at_exit() -> None:
    for hub in list(_hubs):
        try:
            hub.close()
        except EventManagerError as error:
            log.warning("at the end of the program: %s", error)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
