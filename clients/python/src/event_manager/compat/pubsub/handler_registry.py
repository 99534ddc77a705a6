"""Which handlers an event has."""

from __future__ import annotations

import asyncio
import fnmatch
import inspect
import logging
import threading
from typing import Any, Dict, List, Tuple

from ...errors import EventManagerError, InvalidArgument
from .event_base import Event

log = logging.getLogger("pubsub.handler_registry")


class HandlersFailed(EventManagerError):
    """Handlers of an event raised. `errors` has what, with each handler's name. The others have run."""

    def __init__(self, event: Event, errors: "List[Tuple[str, BaseException]]") -> None:
        told = "; ".join(f"{name}: {type(error).__name__}: {error}" for name, error in errors)
        super().__init__(f"{event.get_routing_key()}: {told}")
        self.errors = errors


class HandlerRegistry:
    """Handlers by patterns of fnmatch: `order.*`, `*.created`, `*`; also `?` and `[…]`. It may be used by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handlers: Dict[str, List[Any]] = {}

    def subscribe(self, pattern: str, handler: Any) -> None:
        """Registers a handler. InvalidArgument if it has no `handle`."""
        if not callable(getattr(handler, "handle", None)):
            raise InvalidArgument(f"{handler!r} has no method handle(event)")
        if not pattern:
            raise InvalidArgument("a pattern is not empty; * is all events")
        with self._lock:
            self._handlers.setdefault(pattern, []).append(handler)

    def unsubscribe(self, pattern: str, handler: Any) -> bool:
        """Forgets a handler; whether it was there."""
        with self._lock:
            several = self._handlers.get(pattern, [])
            if handler not in several:
                return False
            several.remove(handler)
            if not several:
                del self._handlers[pattern]
            return True

    def get_handlers(self, routing_key: str) -> List[Any]:
        """The handlers of a routing key, in the order in which their patterns were registered."""
        with self._lock:
            return [each for pattern, several in self._handlers.items() if fnmatch.fnmatchcase(routing_key, pattern) for each in several]

    def clear(self) -> None:
        """Forgets all handlers."""
        with self._lock:
            self._handlers.clear()

    async def invoke(self, event: Event) -> int:
        """Runs all handlers of an event; returns how many. HandlersFailed, when all have run, if some raised."""
        errors: List[Tuple[str, BaseException]] = []
        handlers = self.get_handlers(event.get_routing_key())
        for handler in handlers:
            try:
                result = handler.handle(event)
                if inspect.isawaitable(result):
                    await result
            except (Exception, asyncio.CancelledError) as error:
                log.exception("%s failed for %s", type(handler).__name__, event.get_routing_key())
                errors.append((type(handler).__name__, error))
        if errors:
            raise HandlersFailed(event, errors)
        return len(handlers)
