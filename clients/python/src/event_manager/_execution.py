"""Runs a service's handlers for one event, with all that belongs to it: middleware, hooks, the word for the daemon."""

from __future__ import annotations

import functools
import inspect
import logging
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Callable, Generator, List, Optional, Sequence, Set, Tuple

from . import _event, _typed
from ._worker import Delivery
from .errors import DecodeError, InvalidArgument, Reject

if TYPE_CHECKING:
    from .hooks import Told
    from .service import Service, _Handler

log = logging.getLogger("event_manager")

#: What a runner is told when there is nothing to say to the daemon: the handlers are done, and the event was answered before.
DONE = b""
#: Events of which it is remembered which of several handlers have succeeded.
_PARTLY_DONE_MAX = 4096

Say = Callable[[Delivery, bytes], None]
Call = Tuple["_Handler", Callable[[], Any]]


class Execution:
    """Runs the handlers of a service that works. `say` gives a word about a delivery to the daemon, at any time.

    What `run` returns is the last word; `DONE` if it was said already, None if it will be said later.
    """

    def __init__(self, service: "Service", told: "Optional[Told]", say: Say) -> None:
        self._service = service
        self._told = told
        self._say = say
        self._before = service._ack == "before"
        self._manual = service._ack == "manual"
        self._middleware = [*(told.middlewares if told else ()), *service._middleware]
        for each in self._middleware:
            if inspect.iscoroutinefunction(each) and not all(handler.is_async for handler in service._all_handlers()):
                raise InvalidArgument(f"the middleware {each!r} is async, and a handler of service {service.name!r} isn't")
        self._needs_event = bool(self._middleware) or told is not None
        self._is_plain = not (self._needs_event or self._before or self._manual)
        self._routes = service._routes
        self._partly = _PartlyDone()

    def _calls(self, delivery: Delivery) -> "Tuple[Optional[_event.Event[Any]], List[Call]]":
        """The event if somebody wants it, and the handlers to run; all is decoded before one runs."""
        service, frames = self._service, delivery.frames
        first = frames[0]
        handlers = service._routes.get(first) or service._route(first.partition(b"\0")[0])
        if not handlers:
            raise Reject(f"service {service.name} has no handler for this subject")
        raw = frames[1] if len(frames) > 1 else _event.body_of(frames)
        content_type = None
        if len(frames) > 2 and b'"content-' in frames[2]:
            raw = _event.content_of(frames)
            content_type = _typed.decode_headers(frames[2]).get("content-type")
        event: "Optional[_event.Event[Any]]" = None
        calls: List[Call] = []
        for each in handlers:
            if content_type is not None:
                body = each.read(content_type, raw)
            else:
                body = raw if each.decode is None else each.decode(raw)
            if each.wants_event or self._needs_event:
                event = self._event_of(delivery, body)
                arguments = (event,) if each.only_event else (body, event) if each.wants_event else (body,)
                call = functools.partial(each.function, *arguments)
                for middleware in reversed(self._middleware):
                    call = functools.partial(middleware, event, call)
            else:
                call = functools.partial(each.function, body)
            calls.append((each, call))
        return event, calls

    def run(self, delivery: Delivery) -> Optional[bytes]:
        """Runs the handlers one after the other."""
        try:
            quick = self._quick(delivery)
            if quick is not None:
                handler, arguments = quick
                returned = handler.function(*arguments)
                if returned is not None:
                    _refuse_unrun(returned)
                return self._end(delivery, None, None, 0.0) if delivery.touched else b"ACK %d" % delivery.id
        except BaseException as raised:
            return self._end(delivery, None, raised, 0.0)
        steps = self._steps(delivery)
        error: Optional[BaseException] = None
        while True:
            try:
                _, call = steps.send(error)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            try:
                _refuse_unrun(call())
                error = None
            except BaseException as raised:
                error = raised

    async def run_async(self, delivery: Delivery, in_thread: Callable[..., Any]) -> Optional[bytes]:
        """Runs the handlers one after the other; those that aren't async by `in_thread`."""
        try:
            quick = self._quick(delivery)
            if quick is not None:
                handler, arguments = quick
                returned = await (handler.function(*arguments) if handler.is_async else in_thread(handler.function, *arguments))
                if returned is not None:
                    _refuse_unrun(returned)
                return self._end(delivery, None, None, 0.0) if delivery.touched else b"ACK %d" % delivery.id
        except BaseException as raised:  # Also if the handler was cancelled.
            return self._end(delivery, None, raised, 0.0)
        steps = self._steps(delivery)
        error: Optional[BaseException] = None
        while True:
            try:
                handler, call = steps.send(error)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            try:
                _refuse_unrun(await (call() if handler.is_async else in_thread(call)))
                error = None
            except BaseException as raised:
                error = raised

    def _quick(self, delivery: Delivery) -> "Optional[Tuple[_Handler, Tuple[Any, ...]]]":
        """If one function is to be called, and nothing else is to be done for it: that and its arguments. This is what most events
        are, and a third of the work of `_steps`."""
        if not self._is_plain:
            return None
        frames = delivery.frames
        handlers = self._routes.get(frames[0])
        if handlers is None or len(handlers) != 1 or len(frames) != 2:
            return None
        handler, raw = handlers[0], frames[1]
        body = raw if handler.decode is None else handler.decode(raw)
        if not handler.wants_event:
            return handler, (body,)
        event = self._event_of(delivery, body)
        return handler, ((event,) if handler.only_event else (body, event))

    def _event_of(self, delivery: Delivery, body: Any) -> "_event.Event[Any]":
        event = _event.Event(delivery.frames, body, delivery.id, delivery.attempt)
        event._delivery = delivery
        event._say = self._say
        return event

    def _steps(self, delivery: Delivery) -> "Generator[Call, Optional[BaseException], Optional[bytes]]":
        """Yields what is to be called, and is sent what it raised; returns the last word."""
        began = 0.0 if self._told is None else time.monotonic()
        try:
            event, calls = self._begin(delivery)
        except BaseException as raised:
            return self._end(delivery, None, raised, began)
        if len(calls) == 1:
            return self._end(delivery, event, (yield calls[0]), began)
        error: Optional[BaseException] = None
        done = self._partly.take(delivery)
        for number, call in enumerate(calls):
            if number not in done:
                raised_here = yield call
                if raised_here is None:
                    done.add(number)
                error = error or raised_here
        if error is not None:
            self._partly.keep(delivery, done)
        return self._end(delivery, event, error, began)

    def answer(self, handler: "_Handler", frames: List[bytes]) -> Any:
        """What a handler answers to a sync event; to be awaited if it is async."""
        raw = frames[1]
        body = raw if handler.decode is None else handler.decode(raw)
        event = _event.Event(frames, body)
        call = functools.partial(handler.function, *((event,) if handler.only_event else (body, event) if handler.wants_event else (body,)))
        for middleware in reversed(self._middleware):
            call = functools.partial(middleware, event, call)
        return call()

    def _begin(self, delivery: Delivery) -> "Tuple[Optional[_event.Event[Any]], List[Call]]":
        if self._before:
            delivery.answer(self._say, b"ACK")
        event, calls = self._calls(delivery)
        if self._told is not None and event is not None:
            self._told.on_consume(self._service.name, event)
        return event, calls

    def _end(
        self, delivery: Delivery, event: "Optional[_event.Event[Any]]", error: Optional[BaseException], began: float
    ) -> Optional[bytes]:
        if self._told is not None:
            if event is None:
                event = _event.Event(delivery.frames, id=delivery.id, attempt=delivery.attempt)
            if error is None:
                self._told.on_done(self._service.name, event, time.monotonic() - began)
            else:
                self._told.on_error(self._service.name, event, error, time.monotonic() - began)
        if not delivery.touched and not self._manual:
            return b"ACK %d" % delivery.id if error is None else self._refusal(delivery, event, error)
        word = b"" if error is None else self._refusal(delivery, event, error)
        return delivery.returned(word if not self._before else DONE, self._manual)

    def _refusal(self, delivery: Delivery, event: "Optional[_event.Event[Any]]", error: BaseException) -> bytes:
        """The word about a delivery whose handler raised."""
        service, told = self._service, self._told
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        if delivery.answered:
            log.error("%s: event %s is answered already, but: %s", service.name, delivery.id, reason, exc_info=error)
            return DONE
        # What isn't an Exception, such as a cancellation, says nothing about the event.
        refused = isinstance(error, Exception) and not isinstance(error, service.retry.on)
        final = refused or isinstance(error, (Reject, DecodeError))
        if final or delivery.attempt >= service.retry.max:
            log.error("%s: event %s becomes a dead letter: %s", service.name, delivery.id, reason, exc_info=error)
            if told is not None and event is not None:
                told.on_dead_letter(service.name, event, reason)
            return b"TERM %d %b" % (delivery.id, reason.encode())
        delay = service.retry.delay(delivery.attempt)
        log.warning("%s: event %s is tried again after %.1f s: %s", service.name, delivery.id, delay, reason)
        if told is not None and event is not None:
            told.on_retry(service.name, event, delay)
        return b"NAK %d %d %b" % (delivery.id, round(delay * 1000), reason.encode())


def _refuse_unrun(returned: Any) -> None:
    """What isn't `async def` itself would never be awaited, a generator never run, and the event be acknowledged nevertheless."""
    if inspect.iscoroutine(returned):
        returned.close()
        raise InvalidArgument(f"a handler returned the coroutine {returned.__qualname__} instead of awaiting it; make it async def")
    if inspect.isgenerator(returned) or inspect.isasyncgen(returned):
        raise InvalidArgument(f"a handler returned the generator {returned.__qualname__}, which nobody runs: a handler has no yield")


class _PartlyDone:
    """Which handlers have succeeded with an event of which others have not. An event has no id that outlives an attempt, so its
    frames stand for it: of events that are equal, it doesn't matter which is which."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done: "OrderedDict[bytes, List[Set[int]]]" = OrderedDict()

    def take(self, delivery: Delivery) -> Set[int]:
        """The numbers of the handlers that need not run again."""
        if delivery.attempt == 1 or not self._done:
            return set()
        with self._lock:
            key = _digest(delivery.frames)
            found = self._done.get(key)
            if not found:
                return set()
            if len(found) == 1:
                del self._done[key]
            return found.pop()

    def keep(self, delivery: Delivery, done: Set[int]) -> None:
        """Some have succeeded, and others not."""
        if done:
            with self._lock:
                self._done.setdefault(_digest(delivery.frames), []).append(done)
                while len(self._done) > _PARTLY_DONE_MAX:
                    self._done.popitem(last=False)


def _digest(frames: Sequence[bytes]) -> bytes:
    import hashlib  # Only now: it takes 10 ms.

    digest = hashlib.blake2b(digest_size=16)
    for each in frames:
        digest.update(len(each).to_bytes(8, "big"))
        digest.update(each)
    return digest.digest()
