"""What a process has of a hub: its thread and its connections."""

from __future__ import annotations

import functools
import logging
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, List, Optional, Protocol

from . import _address
from ._io import Loop
from ._publisher import Publisher
from ._requests import Requests
from .errors import Closed, EventManagerError

if TYPE_CHECKING:
    from ._subscriber import Subscription
    from .curve import Curve
    from .hooks import Told

log = logging.getLogger("event_manager")


#: How long to wait until a locator is asked again.
_LOCATE_AGAIN_SECONDS = 0.5


class RunningService(Protocol):
    """A service that works over a hub's connections."""

    def daemon_came(self) -> None:
        """The connection for requests is there again."""

    def stop(self, drain: float, unsubscribe: bool) -> None:
        """Finishes, for at most `drain` seconds."""

    def forked(self) -> None:
        """This is a child process."""


class Core:
    """What a process has of a hub: its thread, its connections."""

    def __init__(
        self,
        endpoint: Optional[_address.Endpoint],
        max_pending_bytes: int,
        told: "Optional[Told]" = None,
        locator: Optional[_address.Endpoint] = None,
        name: Optional[str] = None,
        curve: "Optional[Curve]" = None,
    ) -> None:
        known = endpoint or locator
        assert known is not None
        #: Where the daemon answers requests, or as long as this isn't known, the locator.
        self.endpoint = known
        #: What the locator told.
        self.located = ""
        #: What the user calls this program's workers.
        self.name = name
        #: The user's hooks, if there are any.
        self.told = told
        #: The keys of its connections; None if they are not encrypted.
        self.curve = curve
        self.loop = Loop("event-manager") if curve is None else Loop("event-manager", curve.new_peer)
        self.publisher = Publisher(self.loop, max_pending_bytes)
        self.requests = Requests(self.loop, max_pending_bytes, self._connection)
        self.subscriptions: "List[Subscription]" = []
        self.services: List[RunningService] = []
        #: How many seconds a subscription lives; the daemon tells it.
        self.lease = 60.0
        self._complained = False
        self._lost_at = 0.0
        self._ended = False
        self._connected: Optional[bool] = None
        self._subscribers: Optional[_address.Endpoint] = None
        self.locator: Optional[Requests] = None
        self._locator_address: Optional[_address.Endpoint] = None
        self._max_pending_bytes = max_pending_bytes
        #: Whether the daemon has said that it has none, and the hub wasn't given one.
        self.without_locator = False
        self._asks = False
        if locator is not None:
            self.locator = Requests(self.loop, max_pending_bytes, lambda why: None)
            self.loop.call_soon(functools.partial(self.locator.link.dial, locator))
        if endpoint is not None:
            self.loop.call_soon(lambda: self.requests.link.dial(endpoint))
        else:
            self.requests.why = f"the locator at {locator} has not told where the event manager is"
            self.loop.call_soon(self._locate)

    def _locate(self) -> None:
        """Asks the locator where the daemon is, until it knows. In the loop's thread."""
        if self.locator is None or self._asks or self._ended:
            return
        self._asks = True
        fields = {"token": "3.2", "data": ["EventManager"]}
        self.locator.ask(fields, 5.0).add_done_callback(self._told_where)

    def _told_where(self, answer: "Future[Any]") -> None:
        self._asks = False
        error = answer.exception()
        if error is None:
            try:
                self.endpoint = _address.parse(str(answer.result())).reached_by(self.endpoint)
            except EventManagerError as wrong:
                error = wrong
        if error is None:
            self.located = str(self.endpoint)
            self.requests.link.dial(self.endpoint)
        elif not isinstance(error, Closed):
            self.requests.why = f"the locator does not tell where the event manager is: {error}"
            self.loop.call_later(_LOCATE_AGAIN_SECONDS, self._locate)

    def _connection(self, why: Optional[str]) -> None:
        if why is not None and self.located:
            # It may be elsewhere when it is back.
            self._lost_at = self._lost_at or time.monotonic()
            if time.monotonic() - self._lost_at > _LOCATE_AGAIN_SECONDS:
                self._lost_at = time.monotonic()
                self._locate()
        elif why is None:
            self._lost_at = 0.0
        if self.told is not None and self._connected is not (why is None):
            self._connected = why is None
            self.told.on_state(why is None, why or "connected")
        if why is not None:
            for each in self.subscriptions:
                if each.link.endpoint is None:
                    each.closed(why, 0)
            if not self._complained:
                self._complained = True
                log.warning("no event manager at %s (%s); connecting again until there is one", self.endpoint, why)
            return
        if self._complained:
            self._complained = False
            log.info("connected to the event manager at %s", self.endpoint)
        # The daemon may have been restarted with other addresses.
        self.requests.ask({"token": "status"}, 60.0).add_done_callback(self._addresses)
        for service in list(self.services):
            service.daemon_came()

    def _addresses(self, answer: "Future[Any]") -> None:
        if answer.exception() is not None:
            return
        status = answer.result()
        self.lease = status["subscriptionTtlSeconds"]
        addresses = status["addresses"]
        locator = addresses.get("locator")
        self.without_locator = locator is None and self.locator is None
        if locator is not None:
            self._locator_address = _address.parse(locator).reached_by(self.endpoint)
        self.publisher.link.dial(_address.parse(addresses["publishers"][0]).reached_by(self.endpoint))
        subscribers = _address.parse(addresses["subscribers"][0]).reached_by(self.endpoint)
        self._subscribers = subscribers
        for each in list(self.subscriptions):
            each.link.dial(subscribers)

    def registrar(self) -> Optional[Requests]:
        """The connection to the ServiceLocator, the hub's or the daemon's own; None if none is known."""
        if self.locator is None and self._locator_address is not None and not self._ended:
            self.locator = Requests(self.loop, self._max_pending_bytes, lambda why: None)
            self.loop.call_soon(functools.partial(self.locator.link.dial, self._locator_address))
        return self.locator

    def subscribe(self, subscription: "Subscription") -> None:
        """Connects it, now or when it is known where to. In the loop's thread."""
        self.subscriptions.append(subscription)
        subscription.where = self.endpoint
        if self._subscribers is not None:
            subscription.link.dial(self._subscribers)
        else:
            subscription.closed(self.requests.why, 0)

    def close(self) -> None:
        """Ends it all; waits for that."""

        def end() -> None:
            self._ended = True
            if self.locator is not None:
                self.locator.close()
            self.requests.close()
            self.publisher.close()
            for each in self.subscriptions:
                each.end(Closed("the hub is closed; connect again to go on"))
                each.link.close()

        self.loop.call_soon(end)
        self.loop.stop()
