"""An event broker for APScheduler 4, and ScheduleZero's `ZMQEventBroker`, on this daemon.

    from event_manager.compat.apscheduler import EventManagerBroker

    scheduler = AsyncScheduler(data_store, EventManagerBroker("tcp://localhost:5101"))

All schedulers have one address, so there is no mesh and no list of peers, and an event comes once to each. `ZMQEventBroker` is the
same broker with the arguments of the original: it takes `publish_address` and `subscribe_addresses`, and uses neither; the daemon
is at `address`, else where the environment's EVENT_MANAGER_CLIENT_ADDRESS says, else at tcp://localhost:5101. Schedulers of
different deployments have different `channel`s.

Of the original's design it has: events, heartbeats with the last ten of each instance, timeouts, a leader (the lowest PID, and of
equal ones of several hosts the lowest instance id), `stats` (events sent and received), `leadership_log`, and an event log of
JSON lines (`event_log=PATH`).

What differs, and why:

- Events that pass while the connection is away are not seen: APScheduler's brokers promise no more. What a scheduler publishes
  meanwhile is sent when the daemon is back.
- Leadership is told, not enforced: with a partition there may be two, as there. A leader that has to be the only one is a
  matter of the data store.
- The state database of their document's recommendations (SQLite) is not part of it; `event_log` and `stats` are.
- The original itself works with the daemon by `connectPublishers`.
- It needs asyncio; APScheduler can run on trio, too.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import time
from typing import Any, Dict, List, Optional, Sequence

from .. import aio
from ..errors import Closed, DecodeError, EventManagerError, InvalidArgument


class MissingAPScheduler(EventManagerError, ImportError):
    """APScheduler 4 isn't installed."""


try:
    _Base: Any = importlib.import_module("apscheduler.eventbrokers.base").BaseExternalEventBroker
except ImportError as error:
    raise MissingAPScheduler(f"the broker needs APScheduler 4 ({error}); install 'apscheduler>=4.0.0a5'") from error


class EventManagerBroker(_Base):  # type: ignore[misc]
    """Schedulers' events over the daemon."""

    def __init__(
        self,
        address: Optional[str] = None,
        *,
        channel: str = "apscheduler",
        instance_id: Optional[str] = None,
        heartbeat_interval: float = 5,
        event_log: Optional[str] = None,
        timeout: float = 5.0,
        **options: Any,
    ) -> None:
        if not channel or heartbeat_interval <= 0:
            raise InvalidArgument("a broker has a channel, and a positive heartbeat_interval")
        super().__init__(**options)
        self.address = address
        self.channel = channel
        self.pid = os.getpid()
        self.instance_id = instance_id or f"scheduler-{self.pid}-{os.urandom(4).hex()}"
        self.heartbeat_interval = heartbeat_interval
        self.timeout = timeout
        self.event_log = event_log
        #: Events sent and received, and those that could not be read.
        self.stats: Dict[str, int] = {"sent": 0, "received": 0, "invalid": 0}
        #: When this instance became the leader, or wasn't it any more.
        self.leadership_log: List[Dict[str, Any]] = []
        self._alive: Dict[str, Dict[str, Any]] = {}
        self._leader = False
        self._hub: Optional[aio.AsyncHub] = None

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address!r}, channel={self.channel!r}, instance_id={self.instance_id!r})"

    @property
    def is_leader(self) -> bool:
        """Whether this is the instance with the lowest PID of those that are alive."""
        return self._leader

    def get_alive_instances(self) -> Dict[str, Dict[str, Any]]:
        """The other instances: `pid`, `address`, `last_seen`, and `heartbeats`, the times of the last ten."""
        return {name: {**each, "heartbeats": list(each["heartbeats"])} for name, each in self._alive.items()}

    async def start(self, exit_stack: Any, logger: Any) -> None:
        """Connects. NoAnswer if there is no daemon."""
        await super().start(exit_stack, logger)
        self._stopping = asyncio.Event()
        hub = aio.connect(self.address, timeout=self.timeout)
        exit_stack.push_async_callback(self._leave, hub)
        subscription = await hub.subscribe(self.channel + ".")
        self._hub = hub
        self._task_group.start_soon(self._listen, subscription, name="event-manager listener")
        self._task_group.start_soon(self._beat, hub, name="event-manager heartbeat")
        await self._say("heartbeat")
        self._elect()

    async def _leave(self, hub: aio.AsyncHub) -> None:
        """Says goodbye, and closes; also if the scheduler is cancelled."""
        self._stopping.set()
        if self._hub is not None:
            await asyncio.shield(self._say("shutdown"))
        self._hub = None
        if self._leader:
            self._elected(False)
        try:
            await asyncio.shield(hub.close(self.timeout))
        except EventManagerError as error:
            self._logger.warning("not all was sent: %s", error)

    async def publish(self, event: Any) -> None:
        """Publishes an event to all schedulers of the channel, this one included. Closed if it isn't started."""
        hub = self._hub
        if hub is None:
            raise Closed("the broker is not started; nothing was sent")
        await hub.publish(f"{self.channel}.event", self.generate_notification(event), headers={"x-instance": self.instance_id})
        self.stats["sent"] += 1
        self._log(type(event).__name__, self.instance_id)
        await self.publish_local(event)

    async def _say(self, kind: str) -> None:
        hub = self._hub
        if hub is None:  # It has left while what came before was taken.
            return
        told = {"instance_id": self.instance_id, "pid": self.pid, "address": self.address}
        await hub.publish(f"{self.channel}.{kind}", told, headers={"x-instance": self.instance_id})

    async def _beat(self, hub: aio.AsyncHub) -> None:
        while self._hub is hub:
            try:
                await asyncio.wait_for(self._stopping.wait(), self.heartbeat_interval)
                return
            except asyncio.TimeoutError:
                pass
            await self._say("heartbeat")
            oldest = time.time() - 3 * self.heartbeat_interval
            for name in [name for name, each in self._alive.items() if each["last_seen"] < oldest]:
                self._logger.warning("instance %s is not heard of any more", name)
                del self._alive[name]
                self._log("instance_timeout", name)
            self._elect()

    async def _listen(self, subscription: aio.AsyncSubscription) -> None:
        while True:
            try:
                came = await subscription.next()
            except Closed:
                return
            try:
                await self._take(came)
            except (EventManagerError, ValueError, KeyError, TypeError) as error:
                self.stats["invalid"] += 1
                self._logger.error("a message under %s was not understood: %s", came.subject, error)

    async def _take(self, came: Any) -> None:
        sender = came.headers.get("x-instance")
        if sender == self.instance_id:
            return
        kind = came.subject[len(self.channel) + 1 :]
        if kind == "event":
            event = self.reconstitute_event(came.raw)
            if event is None:
                raise DecodeError("it is no event of APScheduler")
            self.stats["received"] += 1
            self._log(type(event).__name__, str(sender))
            await self.publish_local(event)
        elif kind == "heartbeat":
            told = json.loads(came.raw)
            name, now = str(told["instance_id"]), time.time()
            is_new = name not in self._alive
            before = self._alive.get(name, {}).get("heartbeats", [])
            self._alive[name] = {
                "pid": int(told["pid"]), "address": told.get("address"), "last_seen": now, "heartbeats": [*before, now][-10:]
            }  # fmt: skip
            self._log("heartbeat_received", name)
            if is_new:
                await self._say("heartbeat")  # So that it needn't wait for the next.
            self._elect()
        elif kind == "shutdown":
            self._alive.pop(str(json.loads(came.raw)["instance_id"]), None)
            self._elect()

    def _elect(self) -> None:
        if self._hub is None:
            return
        mine = (self.pid, self.instance_id)
        leads = all(mine < (each["pid"], name) for name, each in self._alive.items())
        if leads != self._leader:
            self._elected(leads)

    def _elected(self, leads: bool) -> None:
        self._leader = leads
        kind = "elected" if leads else "resigned"
        self.leadership_log.append({"timestamp": time.time(), "instance_id": self.instance_id, "pid": self.pid, "event_type": kind})
        self._logger.info("instance %s is %s", self.instance_id, kind)
        self._log(f"leader_{kind}", self.instance_id)

    def _log(self, kind: str, instance: str) -> None:
        if self.event_log is not None:
            with open(self.event_log, "a", encoding="utf-8") as file:
                file.write(json.dumps({"ts": time.time(), "type": kind, "instance": instance}) + "\n")


class ZMQEventBroker(EventManagerBroker):
    """ScheduleZero's broker: its own address and those of the others are not needed, and not used."""

    def __init__(
        self, publish_address: str = "", *, subscribe_addresses: Sequence[str] = (), stop_check_interval: float = 1, **options: Any
    ) -> None:
        super().__init__(**options)
        self.publish_address = publish_address
        self.subscribe_addresses = list(subscribe_addresses)
        self.stop_check_interval = stop_check_interval


__all__ = ["EventManagerBroker", "MissingAPScheduler", "ZMQEventBroker"]
