"""What happens in a hub and its services, told to functions of the user's."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Callable, Dict, Optional, Sequence

if TYPE_CHECKING:
    from ._event import Event

log = logging.getLogger("event_manager")

#: Called around each handler: with the event, and a function that runs the handler (or the next middleware) and returns what that
#: returns: for async handlers something to be awaited.
Middleware = Callable[["Event[Any]", Callable[[], Any]], Any]


class Hooks:
    """Methods that a hub calls; override those that are wanted. They may be called by several threads, so they should be fast.

    What they raise is logged, and changes nothing. Pass them as `connect(hooks=[...])`.
    """

    #: Put around each handler of the services that run on the hub, outside of the services' own.
    middleware: Optional[Middleware] = None

    def on_publish(self, subject: str, body: bytes, headers: Dict[str, str]) -> None:
        """An event is about to be published or emitted. What is put into `headers` goes with it."""

    def on_consume(self, service: str, event: "Event[Any]") -> None:
        """Handlers are about to get this event."""

    def on_done(self, service: str, event: "Event[Any]", seconds: float) -> None:
        """All handlers of this event have returned, after so many seconds."""

    def on_error(self, service: str, event: "Event[Any]", error: BaseException, seconds: float) -> None:
        """A handler raised, or the body could not be decoded. `on_retry` or `on_dead_letter` comes next."""

    def on_retry(self, service: str, event: "Event[Any]", delay: float) -> None:
        """The event comes again, after so many seconds."""

    def on_dead_letter(self, service: str, event: "Event[Any]", reason: str) -> None:
        """The event becomes a dead letter because this process says so. See also `Service.on_dead_letter`."""

    def on_state(self, connected: bool, why: str) -> None:
        """The connection to the daemon is there again, or it ended, or can't be made."""


class Told(Hooks):
    """Several hooks as one; what one raises is logged."""

    def __init__(self, hooks: Sequence[Hooks]) -> None:
        self._hooks = list(hooks)
        self.middlewares = [each.middleware for each in self._hooks if each.middleware is not None]

    def _all(self, name: str, *arguments: Any) -> None:
        for each in self._hooks:
            try:
                getattr(each, name)(*arguments)
            except Exception:
                log.exception("the hook %s of %r raised", name, each)

    def on_publish(self, subject: str, body: bytes, headers: Dict[str, str]) -> None:
        self._all("on_publish", subject, body, headers)

    def on_consume(self, service: str, event: "Event[Any]") -> None:
        self._all("on_consume", service, event)

    def on_done(self, service: str, event: "Event[Any]", seconds: float) -> None:
        self._all("on_done", service, event, seconds)

    def on_error(self, service: str, event: "Event[Any]", error: BaseException, seconds: float) -> None:
        self._all("on_error", service, event, error, seconds)

    def on_retry(self, service: str, event: "Event[Any]", delay: float) -> None:
        self._all("on_retry", service, event, delay)

    def on_dead_letter(self, service: str, event: "Event[Any]", reason: str) -> None:
        self._all("on_dead_letter", service, event, reason)

    def on_state(self, connected: bool, why: str) -> None:
        self._all("on_state", connected, why)


__all__ = ["Hooks", "Middleware"]
