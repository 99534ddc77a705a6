"""Services: handlers for events, which are acknowledged when they are done."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import time
import typing
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Literal, Optional, Sequence, Tuple, Type, TypeVar, Union

from . import _check, _event, _patterns, _typed
from ._ask import advice
from ._running import Running
from .errors import Forked, InvalidArgument, MayBeLost, NoAnswer
from .errors import Reject as Reject
from .hub import Hub

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from .codecs import Codec
    from .hooks import Middleware

F = TypeVar("F", bound=Callable[..., Any])

#: The daemon's `ackTimeout`, if neither it nor the user says another one.
_ACK_TIMEOUT = 30.0


@dataclasses.dataclass(frozen=True)
class Retry:
    """When a handler raises one of `on`, the event comes again after a delay, until its attempt number is `max`; other
    exceptions, and the last attempt, make it a dead letter.

    The delay is `initial * multiplier ** (attempt - 1)` seconds, at most `max_delay`, less a random part of up to `jitter`
    of it. Attempts that end with their worker's death count, too.
    """

    max: int = 8
    initial: float = 0.1
    multiplier: float = 2.0
    max_delay: float = 30.0
    jitter: float = 0.5
    on: Tuple[Type[BaseException], ...] = (Exception,)

    def __post_init__(self) -> None:
        _check.whole(self.max, "max", 1, 1 << 31)
        for name, least, most in (("initial", 0, 86400), ("multiplier", 1, 1e9), ("max_delay", 0, 86400), ("jitter", 0, 1)):
            _check.number(getattr(self, name), name, least, most)
        if not isinstance(self.on, tuple) or not all(isinstance(each, type) and issubclass(each, BaseException) for each in self.on):
            raise InvalidArgument(f"on is a tuple of exceptions, not {self.on!r}")

    def terms(self) -> Dict[str, Any]:
        """This, as the daemon is asked for it."""
        longest = round(self.max_delay * 1000)
        return {
            "maxDeliveries": min(self.max, 1_000_000),
            "initialMs": min(round(self.initial * 1000), longest, 3_600_000),
            "multiplier": min(self.multiplier, 100.0),
            "maxMs": longest,
        }

    def delay(self, attempt: int) -> float:
        """Seconds until the attempt after this one."""
        import random  # Only now: most programs never need it.

        exponent = min(max(attempt, 1) - 1, 64)
        whole = min(self.max_delay, self.initial * min(self.multiplier**exponent, 1e9))
        return whole * (1 - self.jitter * random.random())


class _Handler:
    def __init__(
        self,
        function: Callable[..., Any],
        matches: Callable[[str], object],
        decode: Optional[Callable[[bytes], Any]],
        annotation: Any,
        codec: "Optional[Codec]",
        wants_event: bool,
        only_event: bool,
    ) -> None:
        self.function = function
        self.matches = matches
        #: None: it wants the bytes.
        self.decode = decode
        self.annotation = annotation
        self.codec = codec
        #: How it reads bodies of other content types.
        self.others: Dict[str, Callable[[bytes], Any]] = {}
        self.wants_event = wants_event
        self.only_event = only_event
        self.is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(_annotated(function))

    def read(self, content_type: str, raw: bytes) -> Any:
        """Reads a body that has this header, as the handler wants it."""
        if self.decode is None:
            return raw
        decode = self.others.get(content_type)
        if decode is None:
            from . import codecs

            own = self.codec or codecs.JSON
            codec = codecs.for_content_type(content_type, own)
            decode = self.decode if codec is None or codec is own else codec.decoder(self.annotation)
            if len(self.others) < 16:  # They are chosen by senders.
                self.others[content_type] = decode
        return decode(raw)


def _check_ways(delivery: Any, ack: Any, isolation: Any, order_by: Any, when_full: Any) -> None:
    """The arguments of a service of which each is one of a few."""
    if delivery not in (None, "live", "queue"):
        raise InvalidArgument(f"delivery is 'live', 'queue' or None, not {delivery!r}")
    if ack not in ("after", "before", "manual") or isolation not in ("event", "handler"):
        raise InvalidArgument("ack is 'after', 'before' or 'manual', and isolation 'event' or 'handler'")
    if order_by not in (None, "subject") and not (type(order_by) is int and 0 <= order_by <= 1023):
        raise InvalidArgument(f"order_by is 'subject', a frame's index from 0 to 1023, or None, not {order_by!r}")
    fitting = {None: ("drop-oldest", "drop-newest", "spill"), "queue": ("spill",), "live": ("drop-oldest", "drop-newest")}
    if when_full is not None and when_full not in fitting[delivery]:
        raise InvalidArgument(f"when_full is 'drop-oldest', 'drop-newest', or with delivery='queue' 'spill', not {when_full!r}")


class Service:
    """A service of this name, with handlers for events. Several processes may be workers of one service.

    `delivery`: "queue" keeps its events on disk until END, "live" only while it is subscribed; None is what the daemon's
    configuration says. `credit`: the most events held at a time. `concurrency`: the most handlers that run at a time: threads,
    or tasks if a handler is async.

    The daemon is told of these when the service subscribes, unless they are None; what its configuration says of this very
    service goes before them. `retry`: when a handler raises. `ack_timeout`: after so many seconds without a word, an event goes to
    another worker. A handler may run for longer, up to `max_handling` seconds, because the daemon is told that it still works.
    `when_full`: what happens to events when the queue is full: "drop-oldest" or "drop-newest" of them, or, with `delivery` "queue",
    "spill" to the disk. `order_by`: see below. `dead_letter_subject`: the subject of the events that its dead letters are published
    as; default: `NAME.DLQ`. A daemon that is too old for one of them raises TooOld, if doing without would not
    be the same; without `ack_timeout`, and with a `retry` of up to 8 attempts, it works as before, with a warning.

    `codec` reads bodies that don't say otherwise in the header `content-type`; None is JSON.

    An event is acknowledged when all handlers that match it have returned. If some raise, the event comes again as `retry` says,
    and this process then runs only these. `isolation` "handler" makes a service `NAME.FUNCTION` of each handler, with a queue, retries
    and dead letters of its own.

    `ack` "before": events are acknowledged when their handlers begin, so a crash loses them, and nothing is tried again. "manual":
    handlers take the `Event`, and say `ack`, `nak` or `term`, at any time; if one raises before that, it is as with "after".

    `order_by`: events with the same subject ("subject") or the same frame of this index are delivered in their order, one at a time.
    `middleware`: put around each handler, the first outermost; see
    `event_manager.hooks.Middleware`.
    """

    def __init__(
        self,
        name: str,
        *,
        delivery: Optional[Literal["live", "queue"]] = None,
        credit: int = 32,
        concurrency: int = 1,
        retry: Optional[Retry] = None,
        ack_timeout: Optional[float] = None,
        max_handling: float = 600.0,
        codec: "Optional[Codec]" = None,
        ack: Literal["after", "before", "manual"] = "after",
        order_by: Union[None, str, int] = None,
        when_full: Optional[Literal["drop-oldest", "drop-newest", "spill"]] = None,
        isolation: Literal["event", "handler"] = "event",
        middleware: "Sequence[Middleware]" = (),
        dead_letter_subject: Optional[str] = None,
    ) -> None:
        _check.text(name, "a service's name", 255)
        _check_ways(delivery, ack, isolation, order_by, when_full)
        _check.whole(credit, "credit", 1, 100_000)
        _check.whole(concurrency, "concurrency", 1, 1000)
        _check.number(_ACK_TIMEOUT if ack_timeout is None else ack_timeout, "ack_timeout", 0.01, 86400, " seconds")
        _check.number(max_handling, "max_handling", 0.001, 1e9, " seconds")
        if retry is not None and not isinstance(retry, Retry):
            raise InvalidArgument(f"retry is a Retry, such as Retry(max=3), not {retry!r}")
        if codec is not None:
            _check.has(codec, "a codec", "encode", "decoder")
        if not isinstance(middleware, (list, tuple)):
            raise InvalidArgument(f"middleware is a list of functions, not {middleware!r}")
        for each in middleware:
            _check.function(each, "a middleware")
        if dead_letter_subject is not None:
            _event.subject_bytes(dead_letter_subject)
        self.name = name
        self._ack = ack
        self._isolation = isolation
        self._middleware = list(middleware)
        self._more: Dict[str, Any] = {
            "delivery": delivery, "credit": credit, "concurrency": concurrency, "retry": retry, "ack_timeout": ack_timeout,
            "max_handling": max_handling, "ack": ack, "order_by": order_by, "when_full": when_full, "middleware": middleware,
            "dead_letter_subject": dead_letter_subject,
        }
        self._parts: List[Service] = []
        self._letters: "Optional[Service]" = None
        self._answering: Dict[str, _Handler] = {}
        self._on_letter: Optional[Callable[..., Any]] = None
        self.retry = retry or Retry()
        #: What the daemon is asked for, by the names of SUBSCRIBE.
        self._terms: Dict[str, Any] = {
            "delivery": delivery,
            "ackTimeout": ack_timeout,
            "retry": None if retry is None else retry.terms(),
            "orderBy": order_by,
            "whenFull": when_full,
            "deadLetterSubject": dead_letter_subject,
        }
        #: Where the daemon publishes its dead letters, as far as is known.
        self._letters_at = dead_letter_subject or f"{name}.DLQ"
        self._options: Dict[str, Any] = {"credit": credit, "ack_timeout": ack_timeout or _ACK_TIMEOUT, "max_handling": max_handling}
        self._concurrency = concurrency
        self._codec = codec
        self._handlers: List[_Handler] = []
        self._others: Optional[_Handler] = None
        self._subjects: List[str] = []
        self._routes: Dict[bytes, List[_Handler]] = {}
        self._running: Optional[Running] = None
        self._forked = False
        #: That of its subscription.
        self._id: Optional[str] = None

    def on(
        self, *patterns: str, dialect: _patterns.Dialect = "glob", codec: "Optional[Codec]" = None
    ) -> Callable[[F], F]:
        """Registers a handler for the subjects that match one of the patterns: `*` within a word, `**` across words.

        The function gets the body, as the type of its first parameter's annotation (bytes if there is none), and the
        `Event` as a parameter with that annotation, if it has one. `codec` reads the bodies; default: the service's.
        """
        if not patterns:
            raise InvalidArgument("a handler needs a pattern")
        subjects = [_patterns.subscription(each, dialect) for each in patterns]
        matchers = [_patterns.matcher(each, dialect) for each in patterns]

        def register(function: F) -> F:
            self._handlers.append(self._handler(function, lambda subject: any(matches(subject) for matches in matchers), codec))
            if self._isolation == "handler":
                name = getattr(function, "__name__", "handler")
                if any(each.name == f"{self.name}.{name}" for each in self._parts):
                    raise InvalidArgument(f"with isolation=\"handler\" two handlers can't both have the name {name!r}")
                part = Service(f"{self.name}.{name}", codec=self._codec, **self._more)
                part.on(*patterns, dialect=dialect, codec=codec)(function)
                self._parts.append(part)
            self._subjects.extend(each for each in subjects if each not in self._subjects)
            self._routes.clear()
            return function

        return register

    def _handler(self, function: Callable[..., Any], matches: Callable[[str], object], codec: "Optional[Codec]") -> _Handler:
        if self.running:
            raise InvalidArgument("handlers are registered before the service starts")
        used = codec or self._codec
        decode, annotation, wants_event, only_event = _signature(function, used)
        if self._ack == "manual" and not wants_event:
            raise InvalidArgument(f"{function!r} has to take the Event, to acknowledge it (ack=\"manual\")")
        return _Handler(function, matches, decode, annotation, used, wants_event, only_event)

    def _all_handlers(self) -> List[_Handler]:
        return self._handlers if self._others is None else [*self._handlers, self._others]

    def on_others(self, codec: "Optional[Codec]" = None) -> Callable[[F], F]:
        """Registers a handler for what matches no pattern of the others: a service may be subscribed to more than is registered here,
        by other workers, by the daemon's configuration, or, a durable one, by what is in its queue still.

        Without it, such an event is rejected. It subscribes to nothing itself.
        """

        def register(function: F) -> F:
            if self._isolation == "handler":
                raise InvalidArgument("with isolation=\"handler\" each handler is a service, and there are no others")
            self._others = self._handler(function, lambda subject: True, codec)
            self._routes.clear()
            return function

        return register

    def answers(self, subject: str, codec: "Optional[Codec]" = None) -> Callable[[F], F]:
        """Registers a function that answers sync events (`Hub.call`) with this subject: what it returns is the answer, written by the
        codec. If it raises, the call is refused.

        It needs a ServiceLocator: the one of `connect(locator=...)`, else the daemon's own. Who calls has to reach this machine, and
        on a hub with keys to be the daemon: another locator than its own doesn't tell it this client's key, so its configuration has
        to (`serverKey` of the service). An event that is published with this subject runs the function, too; nobody gets that answer.
        """

        def register(function: F) -> F:
            self.on(subject, dialect="exact", codec=codec)(function)
            unit = self._parts[-1] if self._isolation == "handler" else self
            unit._answering[subject] = unit._handlers[-1]
            return function

        return register

    def on_dead_letter(self, function: F) -> F:
        """Registers a function for the service's dead letters, whichever worker they come from: it gets each as a
        `event_manager.letters.DeadLetter`, once; also if `dead_letter_subject` or the daemon's configuration gives them another subject
        than `NAME.DLQ`.

        The letters are events for a service `NAME.letters` with the same delivery; if the function raises, they come again.
        """
        if self.running or self._on_letter is not None:
            raise InvalidArgument("one function for dead letters is registered, before the service starts")
        self._on_letter = function
        more = {
            **self._more, "ack": "after", "order_by": None, "when_full": None, "middleware": (), "concurrency": 1,
            "dead_letter_subject": None,
        }  # fmt: skip
        self._letters = Service(f"{self.name}.letters", **more)
        return function

    def _register_letters(self) -> None:
        letters, function = self._letters, self._on_letter
        if letters is None or function is None:
            return
        from .letters import of_event

        names = {each.name for each in self._units()}

        def handle(event: _event.Event[Any]) -> Any:
            # Several services may have one subject for their letters.
            letter = of_event(event)
            return function(letter) if letter.service in names else None

        async def handle_async(event: _event.Event[Any]) -> None:
            letter = of_event(event)
            if letter.service in names:
                await function(letter)

        if not letters._others:
            letters.on_others()(handle_async if inspect.iscoroutinefunction(function) else handle)
        letters._subjects = self._letter_subjects()

    def _letter_subjects(self) -> List[str]:
        return sorted({f"exact:{each._letters_at}" for each in self._units() if each is not self._letters})

    def _letters_are_at(self, unit: "Service", subject: str) -> None:
        """The daemon says where it publishes the dead letters of one of the services. In the hub's thread."""
        letters, unit._letters_at = self._letters, subject
        if letters is None or unit is letters or letters._running is None:
            return
        subjects = self._letter_subjects()
        if subjects != letters._subjects:
            letters._subjects = subjects
            letters._running.subscribe_again()

    def start(self, hub: Hub, timeout: Optional[float] = None) -> None:
        """Subscribes and begins to work. Nak if the daemon refuses the subscription; NoAnswer if it isn't there within
        `timeout` seconds (default: the hub's; infinity is possible). After an error it isn't started."""
        self._wait_started(self._begin(hub), hub.timeout if timeout is None else timeout)

    @property
    def running(self) -> bool:
        """Whether it was started, and is not stopped."""
        return any(each._running is not None for each in self._units())

    def _units(self) -> "List[Service]":
        """The services of the daemon that it is."""
        units: List[Service] = list(self._parts) if self._isolation == "handler" else [self]
        # Letters come first, so that none is missed.
        return units if self._letters is None else [self._letters, *units]

    def _begin(self, hub: Hub, aio: "Optional[AbstractEventLoop]" = None) -> List[Running]:
        """Begins to work, with async handlers in the given loop."""
        if not isinstance(hub, Hub):
            raise InvalidArgument(f"a service is started on a Hub (with an AsyncHub: await hub.start(service)), not on {hub!r}")
        units = self._units()
        if any(each._forked for each in units):
            raise Forked(f"service {self.name!r} belongs to the parent process; make another one in this one")
        if self.running:
            raise InvalidArgument(f"service {self.name!r} runs already")
        if not self._handlers:
            raise InvalidArgument(f"service {self.name!r} has no handler")
        self._register_letters()
        works: List[Running] = []
        try:
            for each in units:
                each._running = Running(each, hub, aio, functools.partial(self._letters_are_at, each))
                works.append(each._running)
        except BaseException:
            for work in works:
                work.stop(0.0, False)
            raise
        return works

    def _wait_started(self, works: List[Running], timeout: float) -> None:
        """Waits until all are subscribed; ends them if one isn't."""
        deadline = time.monotonic() + timeout
        try:
            for each in reversed(works):  # The last one may have the first subscribe to something else.
                self._wait_subscribed(each, timeout, deadline)
        except BaseException:
            for each in works:
                each.stop(0.0, False)
            raise

    def _wait_subscribed(self, running: Running, timeout: float, deadline: float) -> None:
        if not running.subscribed.wait(None if timeout == float("inf") else max(0.0, deadline - time.monotonic())):
            raise NoAnswer(
                f"service {self.name!r} could not subscribe within {timeout} s ({running.core.requests.why}); it may be subscribed; "
                f"{advice(running.core.endpoint)}",
                may_be_taken=True,
            )
        if running.failure is not None:
            raise running.failure
        if running.answers is not None and not running.answers.registered.wait(max(0.0, min(deadline - time.monotonic(), 1e6))):
            raise NoAnswer(
                f"service {self.name!r} is subscribed, but not registered with a ServiceLocator within {timeout} s, so nobody can call it; "
                f"check that the daemon has one, or use connect(locator=...)",
                may_be_taken=True,
            )

    def stop(self, drain: float = 5.0, unsubscribe: bool = False) -> None:
        """Takes no more events, finishes for at most `drain` seconds what it holds, and gives the rest back.

        MayBeLost if handlers still run then: their events come to other workers, too. The subscription stays until its lease is
        over, so that a live service's queue survives a restart of its worker; `unsubscribe` ends it now.
        """
        deadline = time.monotonic() + drain
        failure: Optional[MayBeLost] = None
        for each in reversed(self._units()):
            running, each._running = each._running, None
            if running is None:
                continue
            try:
                running.stop(max(0.0, deadline - time.monotonic()), unsubscribe)
            except MayBeLost as error:
                failure = error
        if failure is not None:
            raise failure

    def _route(self, subject: bytes) -> List[_Handler]:
        found = self._routes.get(subject)
        if found is None:
            text = subject.decode("utf-8", "replace")
            found = [each for each in self._handlers if each.matches(text)]
            if not found and self._others is not None:
                found = [self._others]
            if len(self._routes) >= 4096:
                self._routes.clear()
            self._routes[subject] = found
        return found


def _annotated(function: Callable[..., Any]) -> Any:
    """What has the annotations of a handler, which may be a partial or an object that can be called."""
    while isinstance(function, functools.partial):
        function = function.func
    return function if inspect.isroutine(function) or isinstance(function, type) else type(function).__call__


def _signature(function: Callable[..., Any], codec: "Optional[Codec]") -> Tuple[Optional[Callable[[bytes], Any]], Any, bool, bool]:
    """How a handler wants its body (None: as bytes), as which type, whether it wants the event, and whether only that."""
    _check.function(function, "a handler")
    try:
        parameters = list(inspect.signature(function).parameters.values())
        hints = typing.get_type_hints(_annotated(function))
    except (TypeError, ValueError, NameError) as error:
        raise InvalidArgument(f"what {function!r} takes can't be found out: {error}") from error
    annotations = [hints.get(each.name) for each in parameters]
    is_event = [each is _event.Event or typing.get_origin(each) is _event.Event for each in annotations]
    if is_event == [True]:
        return None, bytes, True, True
    named = any(each.kind is each.KEYWORD_ONLY and each.default is each.empty for each in parameters)
    if named or not parameters or is_event[0] or len(parameters) > 2 or (len(parameters) == 2 and not is_event[1]):
        raise InvalidArgument(f"{function!r} should have the parameters (body), (body, event: Event) or (event: Event)")
    as_bytes = parameters[0].name not in hints or annotations[0] is bytes
    if as_bytes:
        return None, bytes, len(parameters) == 2, False
    decoder = _typed.decoder if codec is None else codec.decoder
    return decoder(annotations[0]), annotations[0], len(parameters) == 2, False
