"""Retries, and dead letters as topics."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import inspect
import logging
import random
import time
from typing import Any, Awaitable, Callable, Dict, Optional, Tuple, Type

from ...errors import InvalidArgument
from ... import Retry
from ._bus import Handler, ZmqEventBus, _call
from ._event import Event

log = logging.getLogger("event_manager")


@dataclasses.dataclass
class BackoffPolicy:
    """How long retries wait."""

    base_ms: int = 1000
    multiplier: float = 2.0
    max_delay_ms: int = 60_000
    jitter_ms: int = 0

    def calculate_delay(self, retry_count: int) -> float:
        """Seconds before a retry; the first is 0."""
        delay = min(self.base_ms * self.multiplier ** min(retry_count, 64), self.max_delay_ms)
        return float(delay + random.random() * self.jitter_ms) / 1000


@dataclasses.dataclass
class RetryPolicy:
    """What is tried again."""

    max_retries: int = 3
    retry_on_exceptions: Tuple[Type[BaseException], ...] = (Exception,)
    backoff: BackoffPolicy = dataclasses.field(default_factory=BackoffPolicy)

    def should_retry(self, error: BaseException, retry_count: int) -> bool:
        """Whether an event is tried again that was so many times."""
        return retry_count < self.max_retries and isinstance(error, self.retry_on_exceptions)

    def to_options(self, **more: Any) -> "ConsumerOptions":
        """For run_consumer."""
        backoff = self.backoff
        return ConsumerOptions(
            self.max_retries, backoff.base_ms, backoff.multiplier, backoff.max_delay_ms, backoff.jitter_ms,
            retry_on_exceptions=self.retry_on_exceptions, **more,
        )  # fmt: skip


@dataclasses.dataclass
class ConsumerOptions:
    """How often and when an event is tried again, and where it goes then: `<topic>.DLQ` if nothing else is said."""

    max_retries: int = 3
    backoff_base_ms: int = 1000
    backoff_multiplier: float = 2.0
    backoff_max_delay_ms: int = 60_000
    backoff_jitter_ms: int = 0
    dlq_topic: Optional[str] = None
    on_retry: Optional[Callable[..., Any]] = None
    on_dlq: Optional[Callable[..., Any]] = None
    on_success: Optional[Callable[..., Any]] = None
    retry_on_exceptions: Tuple[Type[BaseException], ...] = (Exception,)

    def __post_init__(self) -> None:
        if self.max_retries < 0 or self.backoff_base_ms < 0 or self.backoff_multiplier < 1 or self.backoff_max_delay_ms < 0:
            raise InvalidArgument("retries and delays are not negative, and delays don't shrink")

    def get_dlq_topic(self, topic: str) -> str:
        """Where events of a topic go that are given up."""
        return self.dlq_topic or f"{topic}.DLQ"

    def to_backoff(self) -> BackoffPolicy:
        """Its delays."""
        return BackoffPolicy(self.backoff_base_ms, self.backoff_multiplier, self.backoff_max_delay_ms, self.backoff_jitter_ms)

    def to_retry(self) -> Retry:
        """As a service wants it."""
        base = self.backoff_base_ms / 1000
        jitter = min(1.0, self.backoff_jitter_ms / self.backoff_base_ms) if self.backoff_base_ms else 0.0
        # The last attempt puts the event into the DLQ topic; if that fails, it comes again.
        return Retry(1_000_000, base, self.backoff_multiplier, min(self.backoff_max_delay_ms / 1000, 86400), jitter)


def create_simple_retry_options(max_retries: int = 3, base_delay_ms: int = 1000, **more: Any) -> ConsumerOptions:
    """Always the same delay."""
    return ConsumerOptions(max_retries, base_delay_ms, 1.0, backoff_jitter_ms=0, **more)


def create_exponential_retry_options(
    max_retries: int = 5, base_delay_ms: int = 1000, max_delay_ms: int = 60_000, **more: Any
) -> ConsumerOptions:
    """Delays that double."""
    return ConsumerOptions(max_retries, base_delay_ms, 2.0, max_delay_ms, base_delay_ms // 2, **more)


async def run_consumer(
    bus: ZmqEventBus, topic: str, handler: Handler, options: Optional[ConsumerOptions] = None, group: Optional[str] = None, concurrency: int = 1
) -> None:
    """Handles events of a topic with retries. It returns when the daemon has subscribed it; handlers run in the loop."""
    await bus._subscribe(topic, handler, group, concurrency, options or ConsumerOptions())


def create_retry_wrapper(handler: Handler, bus: ZmqEventBus, options: ConsumerOptions) -> Callable[[Event], Awaitable[None]]:
    """A handler that tries again in this process; in the end the event is in the DLQ topic. `run_consumer` lets the daemon wait."""

    async def wrapper(event: Event) -> None:
        retries = 0
        while True:
            try:
                result = handler(event)
                if inspect.isawaitable(result):
                    await result
                if options.on_success is not None:
                    await _call(options.on_success, event)
                return
            except Exception as error:
                if retries >= options.max_retries or not isinstance(error, options.retry_on_exceptions):
                    await SimpleDLQ(bus).send_to_dlq(event, error, retries, options.get_dlq_topic(event.topic))
                    if options.on_dlq is not None:
                        await _call(options.on_dlq, event, error)
                    return
                retries += 1
                bus._tell("on_retry", event, retries, error)
                if options.on_retry is not None:
                    await _call(options.on_retry, event, retries, error)
            await asyncio.sleep(options.to_backoff().calculate_delay(retries - 1))

    return wrapper


@dataclasses.dataclass
class DLQEntry:
    """An event that was given up, and why."""

    original_event: Event
    original_topic: str
    error: str
    error_type: str
    retry_count: int
    first_failure_time: datetime.datetime
    last_failure_time: datetime.datetime
    dlq_topic: str

    @classmethod
    def from_event(cls, event: Event) -> "DLQEntry":
        """The entry in an event of a DLQ topic."""
        headers = dict(event.headers or {})
        topic = headers.pop("x-original-topic", event.topic)
        told = {name: headers.pop(name, "") for name in ("x-retry-count", "x-error", "x-error-type", "x-dlq-timestamp")}
        try:
            when = datetime.datetime.fromtimestamp(float(told["x-dlq-timestamp"]), datetime.timezone.utc)
            count = int(told["x-retry-count"])
        except (ValueError, OverflowError, OSError):
            when, count = event.timestamp, 0
        original = dataclasses.replace(event, topic=topic, headers=headers or None)
        return cls(original, topic, told["x-error"], told["x-error-type"], count, when, when, event.topic)

    def to_event(self) -> Event:
        """The event, to be published again. It has a new id: the old one was taken already."""
        headers: Dict[str, str] = {
            **(self.original_event.headers or {}),
            "x-dlq-reprocessing": "true",
            "x-original-retry-count": str(self.retry_count),
            "x-dlq-reprocess-timestamp": str(time.time()),
        }
        event = self.original_event
        return Event(self.original_topic, event.payload, event.key, headers, event.tenant_id)


class SimpleDLQ:
    """Puts events into DLQ topics."""

    def __init__(self, bus: ZmqEventBus, dlq_suffix: str = ".DLQ") -> None:
        self._bus = bus
        self._suffix = dlq_suffix

    async def send_to_dlq(self, event: Event, error: BaseException, retry_count: int = 0, dlq_topic: Optional[str] = None) -> None:
        """Puts an event into a DLQ topic. PublishError if that isn't sure."""
        headers = {
            **(event.headers or {}),
            "x-original-topic": event.topic,
            "x-retry-count": str(retry_count),
            "x-error": str(error),
            "x-error-type": type(error).__name__,
            "x-dlq-timestamp": str(time.time()),
        }
        headers.pop("reply_required", None)
        await self._bus.publish(dataclasses.replace(event, topic=dlq_topic or event.topic + self._suffix, headers=headers))
        self._bus._tell("on_dlq", event, error)


async def create_dlq_consumer(
    bus: ZmqEventBus, dlq_topic: str, handler: Callable[[DLQEntry], Any], group: Optional[str] = None
) -> ZmqEventBus:
    """Calls a handler with the entries of a DLQ topic."""

    async def came(event: Event) -> None:
        result = handler(DLQEntry.from_event(event))
        if inspect.isawaitable(result):
            await result

    await bus.subscribe(dlq_topic, came, group=group or "dlq-processor")
    return bus


async def log_dlq_entry(entry: DLQEntry) -> None:
    """Logs an entry."""
    log.warning("given up: %s after %d retries: %s: %s", entry.original_topic, entry.retry_count, entry.error_type, entry.error)


async def alert_on_dlq_entry(entry: DLQEntry) -> None:
    """Logs an entry as what somebody has to look at."""
    log.critical("given up: %s after %d retries: %s: %s", entry.original_topic, entry.retry_count, entry.error_type, entry.error)
