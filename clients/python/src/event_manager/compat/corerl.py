"""CoreRL's typed `EventBusClient`, on this daemon.

    from event_manager.compat.corerl import EventBusClient

    client = EventBusClient[MyEvent, MyEventType, MyEventTopic](event_class=MyEvent, host="localhost")
    client.connect()
    client.emit_event(MyEventType.started, topic=MyEventTopic.my_service)

The original works with the daemon as it is, if `pubAddress` is `tcp://*:5559` and `subAddress` is `tcp://*:5560`. This one has
its API and the same two frames, `[topic][JSON]`, so both kinds of clients understand each other. And it has the wishes of its
README's last section:

- **Reconnection**: it comes back by itself, with its subscriptions.
- **No slow joiner**: an event that is emitted right after `connect` arrives; `subscribe` returns when the daemon knows it.
- **Metrics**: `stats` counts what was emitted, received, dropped, not understood, and callbacks that failed.
- **Compression**: `compress_above=BYTES` compresses larger events; clients without it can't read those.
- **Authentication**: as `curve=` of `event_manager.connect`, or the keys that the environment names.

`event_class` is a model of pydantic, or any class with `model_dump_json` and `model_validate_json`. BaseEvent, RLEvent need
pydantic. Ports: the original's are those of its proxy, which tell nothing of the daemon's requests; `address`, else the
environment's EVENT_MANAGER_CLIENT_ADDRESS, else port 5101 of `host`. Other `pub_port` and `sub_port` are accepted and unused.

What differs: `connect` doesn't fail if there is no daemon; `emit_event` on a client that is not connected raises Closed, where
the original logs. Events are not acknowledged, as there: what comes while a subscriber is away is not seen. A service
(`event_manager.Service`) is for that. The queue that `start_consumer` fills has 10,000 events, of which the oldest go.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import importlib
import inspect
import logging
import os
import queue
import threading
from typing import Any, Callable, Dict, Generator, Generic, List, Mapping, Optional, Type, TypeVar, Union

from .. import hub as _hub
from ..errors import Closed, EventManagerError, InvalidArgument, NoAnswer

log = logging.getLogger("event_manager")

EventClass = TypeVar("EventClass")
EventTypeClass = TypeVar("EventTypeClass")
EventTopicClass = TypeVar("EventTopicClass")
Callback = Callable[[Any], Any]

def now_iso() -> str:
    """The time in UTC."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat()


class _Names(str, enum.Enum):
    """Members that are their names in lower case, as of StrEnum."""

    @staticmethod
    def _generate_next_value_(name: str, start: int, count: int, last_values: List[Any]) -> str:
        return name.lower()

    def __str__(self) -> str:
        return str(self.value)

    __format__ = str.__format__  # type: ignore[assignment]


class BaseEventType(_Names):
    """What can happen."""


class BaseEventTopic(_Names):
    """Where it can happen: subscribers get all topics that begin with theirs."""


@dataclasses.dataclass(frozen=True)
class BusStats:
    """Counts since `connect`."""

    emitted: int = 0
    received: int = 0
    dropped: int = 0
    invalid: int = 0
    callbacks_failed: int = 0


class EventBusClient(Generic[EventClass, EventTypeClass, EventTopicClass]):
    """Emits and receives events of one class. Its methods may be called by any thread."""

    def __init__(
        self,
        event_class: Type[EventClass],
        host: str = "localhost",
        pub_port: int = 5559,
        sub_port: int = 5560,
        *,
        address: Optional[str] = None,
        compress_above: Optional[int] = None,
        timeout: float = 5.0,
        **options: Any,
    ) -> None:
        for name in ("model_dump_json", "model_validate_json"):
            if not hasattr(event_class, name):
                raise InvalidArgument(f"{event_class!r} has no {name}: it should be a model of pydantic")
        self.event_class = event_class
        self.host, self.pub_port, self.sub_port = host, pub_port, sub_port
        self._address = address or os.environ.get(_hub.ADDRESS_VARIABLE) or f"tcp://{host}:5101"
        unknown = set(options) - set(inspect.signature(_hub.connect).parameters)
        if unknown:
            raise InvalidArgument(f"this client has no option {', '.join(sorted(unknown))}")
        options["compress_above"] = compress_above
        self._timeout = timeout
        self._options = options
        self._lock = threading.RLock()
        self._hub: Optional[_hub.Hub] = None
        self._topics: Dict[str, Any] = {}
        self._callbacks: Dict[Any, List[Callback]] = {}
        self._queue: "queue.Queue[Optional[EventClass]]" = queue.Queue(10_000)
        self._consuming = False
        self._threads: List[threading.Thread] = []
        self._counts: Dict[str, int] = {}

    def connect(self) -> None:
        """Connects, if it isn't connected. It returns at once; what is emitted waits for a connection."""
        with self._lock:
            if self._hub is not None:
                return
            self._hub = _hub.connect(self._address, timeout=self._timeout, **self._options)
            self._counts = {}
            self._queue = queue.Queue(10_000)
            topics, self._topics = list(self._topics), {}
            for each in topics:
                self._subscribe(each)

    def close(self) -> None:
        """Sends what is emitted, stops the consumer, and ends. MayBeLost if something may not have been taken."""
        with self._lock:
            hub, self._hub = self._hub, None
            threads, self._threads = self._threads, []
            subscriptions, self._topics = self._topics, {}
            self._consuming = False
        for each in subscriptions.values():
            each.close()
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(self._timeout)
        _put(self._queue, None)
        if hub is not None:
            hub.close(self._timeout)

    def is_connected(self) -> bool:
        """Whether `connect` was called, and `close` not since. A daemon that is away for a while doesn't count."""
        return self._hub is not None

    def flush(self, timeout: Optional[float] = None) -> None:
        """Waits until the daemon has what was emitted; MayBeLost if that isn't sure."""
        self._connected().flush(timeout)

    def emit_event(self, event: "Union[EventClass, EventTypeClass]", topic: EventTopicClass) -> None:
        """Emits an event; of a type, an event with nothing but that."""
        hub = self._connected()
        made: Any = event if isinstance(event, self.event_class) else self._event_of(event)
        hub.publish(_text(topic), made.model_dump_json().encode())
        self._count("emitted")

    def _event_of(self, type: Any) -> Any:
        try:
            return self.event_class(type=type)  # type: ignore[call-arg]
        except (TypeError, ValueError) as error:
            raise InvalidArgument(f"no {self.event_class.__name__} can be made of {type!r}: {error}; nothing was sent") from error

    def subscribe(self, topic: EventTopicClass) -> None:
        """Subscribes to a topic, and to those that begin with it. When it returns, the daemon knows it, if there is one."""
        self._connected()
        with self._lock:
            if _text(topic) not in self._topics:
                self._subscribe(_text(topic))

    def _subscribe(self, topic: str) -> None:
        hub = self._connected()
        # It comes about when there is a daemon; only then the caller has to wait.
        subscription = hub.subscribe(topic, wait=False)
        try:
            subscription.wait(self._timeout)
        except NoAnswer as error:
            log.warning("%s: %s; it is subscribed when there is a daemon", topic, error)
        self._topics[topic] = subscription
        if self._consuming:
            self._start(topic)

    def start_consumer(self) -> None:
        """Receives in the background: calls callbacks, and fills the queue of `recv_event`."""
        self._connected()
        with self._lock:
            if self._consuming:
                return
            self._consuming = True
            for topic in self._topics:
                self._start(topic)

    def _start(self, topic: str) -> None:
        thread = threading.Thread(target=self._consume, args=(topic, self._topics[topic]), name=f"events-{topic}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _consume(self, topic: str, subscription: Any) -> None:
        for came in subscription:
            # Of several subscriptions that match, the longest counts.
            others = [each for each in list(self._topics) if came.subject.startswith(each) and len(each) > len(topic)]
            if others:
                continue
            event = self._read(came)
            if event is None:
                continue
            self._count("received")
            for callback in list(self._callbacks.get(getattr(event, "type", None), ())):
                try:
                    callback(event)
                except Exception:
                    self._count("callbacks_failed")
                    log.exception("a callback for %s failed", getattr(event, "type", None))
            if _put(self._queue, event):
                self._count("dropped")

    def _read(self, came: Any) -> Optional[EventClass]:
        try:
            made: EventClass = self.event_class.model_validate_json(came.raw)  # type: ignore[attr-defined]
            return made
        except (ValueError, EventManagerError) as error:
            self._count("invalid")
            log.error("an event under %s is no %s: %s", came.subject, self.event_class.__name__, error)
            return None

    def attach_callback(self, event_type: EventTypeClass, cb: Callback) -> None:
        """Calls it with each event of a type, when the consumer runs. If it raises, others are called nevertheless."""
        if not callable(cb):
            raise InvalidArgument(f"{cb!r} can't be called")
        with self._lock:
            self._callbacks.setdefault(event_type, []).append(cb)

    def attach_callbacks(self, cbs: "Mapping[EventTypeClass, Callback]") -> None:
        """Several at once."""
        for event_type, cb in cbs.items():
            self.attach_callback(event_type, cb)

    def recv_event(self, timeout: float = 0.5) -> Optional[EventClass]:
        """The next event; None if none comes for so many seconds, or the client is closed."""
        try:
            return self._queue.get(timeout=timeout)
        except queue.Empty:
            return None

    def listen_forever(self) -> "Generator[EventClass, None, None]":
        """The events as they come, until `close`."""
        while self.is_connected():
            event = self.recv_event(1.0)
            if event is not None:
                yield event

    @property
    def stats(self) -> BusStats:
        """Counts since `connect`."""
        with self._lock:
            subscriptions = sum(each.dropped for each in self._topics.values())
            counts = dict(self._counts)
        counts["dropped"] = counts.get("dropped", 0) + subscriptions
        return BusStats(**counts)

    def _count(self, name: str) -> None:
        with self._lock:
            self._counts[name] = self._counts.get(name, 0) + 1

    def _connected(self) -> _hub.Hub:
        hub = self._hub
        if hub is None:
            raise Closed("the client is not connected; call connect(); nothing was sent")
        return hub

    def __enter__(self) -> "EventBusClient[EventClass, EventTypeClass, EventTopicClass]":
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _text(topic: Any) -> str:
    return str(topic.value if isinstance(topic, enum.Enum) else topic)


def _put(into: "queue.Queue[Any]", item: Any) -> bool:
    """Puts an item; whether the oldest had to go for it."""
    dropped = False
    while True:
        try:
            into.put_nowait(item)
            return dropped
        except queue.Full:
            dropped = True
            try:
                into.get_nowait()
            except queue.Empty:
                pass


_NEED_PYDANTIC = ("BaseEvent", "RLEvent", "RLEventType", "RLEventTopic", "RLEventBusClient")


def __getattr__(name: str) -> Any:
    """What needs pydantic, made when it is asked for."""
    if name not in _NEED_PYDANTIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        made = importlib.import_module("event_manager.compat._corerl_events")
    except ModuleNotFoundError as error:
        if error.name != "pydantic":
            raise
        raise MissingPydantic(f"{name} needs pydantic; install event-manager[pydantic]") from error
    return getattr(made, name)


class MissingPydantic(EventManagerError, ImportError):
    """pydantic isn't installed."""


__all__ = ["BaseEventTopic", "BaseEventType", "BusStats", "EventBusClient", "MissingPydantic", "now_iso"]
