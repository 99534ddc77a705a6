"""What a process has of a hub: its thread and its connections."""

from __future__ import annotations

import logging
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, List, Optional, Protocol

from . import _address
from ._io import Loop
from ._publisher import Publisher
from ._requests import Requests
from ._subscriber import Subscription
from .errors import Closed

if TYPE_CHECKING:
    from .hooks import Told

log = logging.getLogger("event_manager")


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

    def __init__(self, endpoint: _address.Endpoint, max_pending_bytes: int, told: "Optional[Told]" = None) -> None:
        self.endpoint = endpoint
        #: The user's hooks, if there are any.
        self.told = told
        self.loop = Loop("event-manager")
        self.publisher = Publisher(self.loop, max_pending_bytes)
        self.requests = Requests(self.loop, max_pending_bytes, self._connection)
        self.subscriptions: List[Subscription] = []
        self.services: List[RunningService] = []
        #: How many seconds a subscription lives; the daemon tells it.
        self.lease = 60.0
        self._complained = False
        self._connected: Optional[bool] = None
        self._subscribers: Optional[_address.Endpoint] = None
        self.loop.call_soon(lambda: self.requests.link.dial(endpoint))

    def _connection(self, why: Optional[str]) -> None:
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
        self.publisher.link.dial(_address.parse(addresses["publishers"][0]).reached_by(self.endpoint))
        subscribers = _address.parse(addresses["subscribers"][0]).reached_by(self.endpoint)
        self._subscribers = subscribers
        for each in list(self.subscriptions):
            each.link.dial(subscribers)

    def subscribe(self, subscription: Subscription) -> None:
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
            self.requests.close()
            self.publisher.close()
            for each in self.subscriptions:
                each.end(Closed("the hub is closed; connect again to go on"))
                each.link.close()

        self.loop.call_soon(end)
        self.loop.stop()
