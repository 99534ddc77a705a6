"""The bus."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import logging
import os
import time
import uuid
from collections import deque
from typing import TYPE_CHECKING, Any, Awaitable, Callable, Deque, Dict, List, Literal, Optional, Tuple

from ... import aio
from ..._event import Event as Received
from ...errors import EventManagerError, InvalidArgument, NoAnswer
from ... import Reject, Service
from ._event import Event, JsonCodec, from_frames, to_headers
from ._hooks import ObservabilityHooks

if TYPE_CHECKING:
    from .consumer import ConsumerOptions

log = logging.getLogger("event_manager")

Handler = Callable[[Event], Any]

#: The group of those who name none.
DEFAULT_GROUP = "default"


class EventBusError(EventManagerError):
    """The base class."""


class PublishError(EventBusError):
    """An event may not have been taken. It may be published again, if its handlers tolerate it twice."""


class BusClosed(PublishError, RuntimeError):
    """The bus is closed; nothing was sent."""


class NoSubscribers(EventBusError):
    """Nobody is subscribed to the topic of a request; nobody got it."""


class RequestTimeout(EventBusError, asyncio.TimeoutError):
    """Nobody answered in time; handlers may have got the request."""


class RequestFailed(EventBusError):
    """The handler of a request raised."""


@dataclasses.dataclass
class _Config:
    max_connections: int = 10
    connection_timeout: float = 5.0
    enable_metrics: bool = True
    enable_tracing: bool = True
    #: Where the daemon is.
    address: Optional[str] = None
    #: "queue": groups' events are on disk until they are done; None: as the daemon's configuration says.
    delivery: Optional[Literal["live", "queue"]] = None

    def to_dict(self) -> Dict[str, Any]:
        """Its fields."""
        return dataclasses.asdict(self)


@dataclasses.dataclass
class ZmqConfig(_Config):
    """Where the daemon is, and how groups are kept."""


@dataclasses.dataclass
class MemoryConfig(_Config):
    """Of the memory adapter. `enable_persistence` keeps the events that this bus published (`get_event_history`)."""

    max_queue_size: int = 10_000
    enable_persistence: bool = False


@dataclasses.dataclass
class RedisConfig(_Config):
    """Of the Redis adapter: accepted; what belongs to Redis isn't used, `prefetch_count` is the credit."""

    host: str = "localhost"
    port: int = 6379
    db: int = 0
    password: Optional[str] = None
    url: Optional[str] = None
    max_stream_length: int = 10_000
    consumer_timeout: float = 5.0
    prefetch_count: int = 32


class KafkaConfig(_Config):
    """Of the Kafka adapter: accepted; what belongs to Kafka isn't used."""

    def __init__(
        self, bootstrap_servers: str = "localhost:9092", *, address: Optional[str] = None,
        delivery: Optional[Literal["live", "queue"]] = None, **kafka: Any,
    ) -> None:
        super().__init__(address=address, delivery=delivery)
        self.bootstrap_servers = bootstrap_servers
        for name, value in kafka.items():
            setattr(self, name, value)


@dataclasses.dataclass(frozen=True)
class AdapterMetadata:
    """What an adapter can."""

    name: str
    version: str = "1.0"
    supported_features: Tuple[str, ...] = ("publish", "subscribe", "consumer_groups", "request", "retry", "dlq", "persistence")


class ZmqEventBus:
    """A bus on the daemon. It belongs to the event loop in which it is used first; handlers run there."""

    def __init__(
        self, config: Optional[_Config] = None, *, hooks: Optional[ObservabilityHooks] = None, codec: Optional[JsonCodec] = None,
        name: Optional[str] = None,
    ) -> None:
        self.config = config if config is not None else ZmqConfig()
        self.metadata = AdapterMetadata(name or ("memory" if isinstance(config, MemoryConfig) else "zmq"))
        self._codec = codec or JsonCodec()
        self._hooks: List[ObservabilityHooks] = [hooks] if hooks is not None else []
        self._address = self.config.address or os.environ.get("EVENT_MANAGER_CLIENT_ADDRESS")
        self._hub = aio.connect(self._address, timeout=self.config.connection_timeout)
        self._services: List[Service] = []
        self._topics: Dict[str, int] = {}
        self._history: List[Event] = []
        self._published = self._consumed = 0
        self._closed = False
        #: As in their memory adapter, so many events of a topic wait in this process until somebody subscribes; None: they don't.
        self._keeps: Optional[int] = getattr(self.config, "max_queue_size", None)
        self._kept: Dict[str, Deque[Tuple[Event, Optional[Dict[str, Any]]]]] = {}
        self._handing_on: Optional[asyncio.Lock] = None

    def use_hooks(self, hooks: ObservabilityHooks) -> None:
        """Calls these hooks from now on, beside those before."""
        self._hooks.append(hooks)

    @property
    def is_closed(self) -> bool:
        """Whether it is closed."""
        return self._closed

    async def publish(self, event: Event, headers: Optional[Dict[str, Any]] = None, *, partition_key: Optional[str] = None) -> None:
        """Publishes an event, and waits until the daemon has it. PublishError if that isn't sure."""
        if partition_key is not None and event.key is None:
            event = dataclasses.replace(event, key=partition_key)
        # An answer to a request isn't for groups.
        if self._keeps is None or event.topic.endswith(".reply"):
            await self._publish(event, headers)
            return
        kept = self._kept.setdefault(event.topic, deque())
        if kept and await self._hand_on(event.topic):
            await self._publish(event, headers)
            return
        if len(kept) >= self._keeps:
            raise PublishError(
                f"queue is full: nobody has subscribed to {event.topic!r}, and {len(kept)} events wait (max_queue_size); this one was not taken"
            )
        if kept or not await self._publish(event, headers):
            if kept:  # It was not published, but it is taken.
                self._account(event, time.monotonic())
            kept.append((event, headers))

    async def _hand_on(self, topic: str) -> bool:
        """Publishes what waits for somebody to subscribe to a topic; whether there is somebody."""
        if self._handing_on is None:
            self._handing_on = asyncio.Lock()
        async with self._handing_on:  # Of two tasks, one does it.
            kept = self._kept.get(topic)
            while kept:
                event, headers = kept[0]
                if not await self._publish(event, headers, again=True):
                    return False
                kept.popleft()
        return True

    async def _publish(self, event: Event, headers: Optional[Dict[str, Any]] = None, again: bool = False) -> int:
        """Returns how many groups have it. `again`: it is counted already."""
        self._check()
        body = self._codec.encode(event)
        begun = time.monotonic()
        try:
            receipt = await self._hub.emit(event.topic, body, headers=to_headers(event, headers))
        except InvalidArgument:
            raise
        except EventManagerError as error:
            raise PublishError(f"an event of {event.topic!r} was not confirmed: {error}") from error
        if not again:
            self._account(event, begun)
        return receipt.services

    def _account(self, event: Event, begun: float) -> None:
        self._published += 1
        self._topics[event.topic] = self._topics.get(event.topic, 0) + 1
        if getattr(self.config, "enable_persistence", False):
            self._history.append(event)
        self._tell("on_publish", event, time.monotonic() - begun)

    async def subscribe(self, topic: str, handler: Handler, group: Optional[str] = None, concurrency: int = 1) -> None:
        """Calls a handler with the events of a topic. Each group gets each event; within a group one handler does.
        When it returns, the daemon has subscribed it. If the handler raises, the event becomes a dead letter."""
        await self._subscribe(topic, handler, group, concurrency, None)

    async def _subscribe(
        self, topic: str, handler: Handler, group: Optional[str], concurrency: int, options: "Optional[ConsumerOptions]"
    ) -> None:
        self._check()
        if not callable(handler):
            raise InvalidArgument(f"{handler!r} can't be called")
        name = group or DEFAULT_GROUP
        retry = None if options is None else options.to_retry()
        credit = max(concurrency, int(getattr(self.config, "prefetch_count", 32)))
        service = Service(
            f"{topic}@{name}", delivery=self.config.delivery, concurrency=concurrency, credit=min(credit, 100_000), retry=retry
        )

        async def came(received: "Received[bytes]") -> None:
            event = from_frames(received.subject, self._codec.decode(received.subject, received.raw), received.headers)
            begun = time.monotonic()
            try:
                result = handler(event)
                if inspect.isawaitable(result):
                    result = await result
            except Exception as error:
                self._done(event, name, begun, error)
                await self._failed(event, received.attempt, error, options)
                return
            self._done(event, name, begun, None)
            if options is not None and options.on_success is not None:
                await _call(options.on_success, event)
            await self._answer(event, result=result)

        service.on(topic, dialect="exact")(came)
        await self._hub.start(service)
        self._services.append(service)
        await self._hand_on(topic)

    async def _failed(self, event: Event, attempt: int, error: Exception, options: "Optional[ConsumerOptions]") -> None:
        """A handler raised: raises what says whether it is tried again, or puts it into the DLQ topic."""
        from .consumer import SimpleDLQ

        if options is None:
            await self._answer(event, error=error)
            raise Reject(f"{type(error).__name__}: {error}") from error
        if attempt <= options.max_retries and isinstance(error, options.retry_on_exceptions):
            self._tell("on_retry", event, attempt, error)
            if options.on_retry is not None:
                await _call(options.on_retry, event, attempt, error)
            raise error
        await SimpleDLQ(self).send_to_dlq(event, error, attempt - 1, options.get_dlq_topic(event.topic))
        if options.on_dlq is not None:
            await _call(options.on_dlq, event, error)
        await self._answer(event, error=error)

    def _done(self, event: Event, group: str, begun: float, error: Optional[Exception]) -> None:
        self._consumed += 1
        self._tell("on_consume", event, group, time.monotonic() - begun, error)

    async def _answer(self, event: Event, result: Any = None, error: Optional[Exception] = None) -> None:
        """Answers a request, if it is one and there is something to say."""
        headers = event.headers or {}
        if headers.get("reply_required") != "true" or (result is None and error is None):
            return
        told = {"correlation_id": headers.get("correlation_id", "")}
        if error is not None:
            told["x-error"] = f"{type(error).__name__}: {error}"
        payload: Any = result if error is None else {}
        answer = Event(f"{event.topic}.reply", payload, headers=told)
        try:
            await self._publish(answer)
        except EventManagerError as failure:
            log.warning("a request of %s is not answered: %s", event.topic, failure)

    async def request(self, topic: str, payload: Any, timeout: float = 30.0, **more: Any) -> Any:
        """Asks; returns the first answer. NoSubscribers, RequestTimeout or RequestFailed if there is none."""
        self._check()
        correlation = str(uuid.uuid4())
        try:
            async with await self._hub.subscribe(f"{topic}.reply") as answers:
                deadline = time.monotonic() + timeout
                headers = {"reply_required": "true", "correlation_id": correlation}
                if not await self._publish(Event(topic, payload, headers=headers, **more)):
                    raise NoSubscribers(f"nobody is subscribed to {topic!r}; nobody got the request")
                while True:
                    received = await answers.next(max(0.001, deadline - time.monotonic()))
                    if received.headers.get("correlation_id") != correlation:
                        continue
                    if "x-error" in received.headers:
                        raise RequestFailed(f"the handler of {topic!r} raised {received.headers['x-error']}")
                    return self._codec.decode(received.subject, received.raw)
        except NoAnswer as error:
            raise RequestTimeout(f"no answer to {topic!r} within {timeout} s; handlers may have got it") from error

    def get_queue_size(self, topic: str, group: Optional[str] = None) -> int:
        """Events that wait for groups of a topic, or for one: in the daemon, and here until somebody subscribes."""
        self._check()
        services = self._hub.hub.status()["services"]
        mine = (lambda name: name.startswith(f"{topic}@")) if group is None else f"{topic}@{group}".__eq__
        here = len(self._kept.get(topic, ())) if group is None else 0
        return here + sum(each["counters"]["queued"] for each in services if mine(each["name"]))

    def get_stats(self) -> Dict[str, int]:
        """Counts of this bus."""
        return {
            "published_count": self._published,
            "consumed_count": self._consumed,
            "active_topics": len(self._topics),
            "active_subscriptions": len(self._services),
        }

    def get_event_history(self, topic: Optional[str] = None) -> List[Event]:
        """What this bus published, with `enable_persistence`."""
        return [each for each in self._history if topic is None or each.topic == topic]

    async def close(self, drain: float = 5.0) -> None:
        """Lets handlers finish for at most `drain` seconds, and ends. What they have not done comes to others.
        MayBeLost if some still run."""
        if self._closed:
            return
        self._closed = True
        services, self._services = self._services, []
        await asyncio.gather(*(self._hub.stop(each, drain) for each in services))
        await self._hub.close(drain)

    async def __aenter__(self) -> "ZmqEventBus":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _check(self) -> None:
        if self._closed:
            raise BusClosed("adapter is closed; nothing was sent")

    def _tell(self, name: str, *arguments: Any) -> None:
        for each in self._hooks:
            try:
                getattr(each, name)(*arguments)
            except Exception:
                log.exception("a hook failed: %s", name)


EventBus = ZmqEventBus
MemoryEventBus = ZmqEventBus


async def _call(function: Callable[..., Any], *arguments: Any) -> None:
    """Calls what a user gave, async or not; if it raises, that says nothing about the event."""
    try:
        result = function(*arguments)
        if inspect.isawaitable(result):
            await result
    except Exception:
        log.exception("%r failed", function)


def create_zmq_bus(config: Optional[ZmqConfig] = None, **more: Any) -> ZmqEventBus:
    """A bus on the daemon. `hooks` and `codec` may be given."""
    return ZmqEventBus(config, **more)


def create_memory_bus(config: Optional[MemoryConfig] = None, **more: Any) -> ZmqEventBus:
    """A bus on the daemon, for who had one in memory."""
    return ZmqEventBus(config or MemoryConfig(), **{"name": "memory", **more})


def create_redis_bus(config: Optional[RedisConfig] = None, **more: Any) -> ZmqEventBus:
    """A bus on the daemon, for who had one on Redis."""
    return ZmqEventBus(config or RedisConfig(), **more)


def create_kafka_bus(config: Optional[KafkaConfig] = None, **more: Any) -> ZmqEventBus:
    """A bus on the daemon, for who had one on Kafka."""
    return ZmqEventBus(config or KafkaConfig(), **more)


Awaited = Awaitable[None]
