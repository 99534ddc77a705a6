"""Events, and how they become bytes."""

from __future__ import annotations

import dataclasses
import datetime
import json
import uuid
from typing import Any, Callable, Dict, Mapping, Optional

from ...errors import DecodeError, InvalidArgument


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)


@dataclasses.dataclass
class EventMetadata:
    """What belongs to an event beside its payload."""

    event_id: str
    timestamp: datetime.datetime
    topic: str
    key: Optional[str]
    tenant_id: Optional[str]


@dataclasses.dataclass
class Event:
    """An event of a topic. `key`, `headers` and `tenant_id` are carried with it."""

    topic: str
    payload: Dict[str, Any]
    key: Optional[str] = None
    headers: Optional[Dict[str, str]] = None
    tenant_id: Optional[str] = None
    id: Any = dataclasses.field(default_factory=lambda: str(uuid.uuid4()))
    timestamp: datetime.datetime = dataclasses.field(default_factory=_now)

    @property
    def metadata(self) -> EventMetadata:
        """Its id, time, topic, key and tenant."""
        return EventMetadata(str(self.id), self.timestamp, self.topic, self.key, self.tenant_id)


class JsonCodec:
    """Payloads as JSON. `validate(topic, payload)` may raise ValueError, for what is published and what comes."""

    def __init__(self, validate: Optional[Callable[[str, Any], None]] = None, indent: Optional[int] = None) -> None:
        self._validate = validate
        self._indent = indent

    @classmethod
    def with_schema_validation(cls, validate: Callable[[str, Any], None]) -> "JsonCodec":
        """A codec that validates."""
        return cls(validate)

    @classmethod
    def compact(cls) -> "JsonCodec":
        """A codec without spaces."""
        return cls()

    @classmethod
    def pretty(cls) -> "JsonCodec":
        """A codec with lines."""
        return cls(indent=2)

    def encode(self, event: Event) -> bytes:
        """The payload's bytes; InvalidArgument if it can't be written, or isn't valid."""
        try:
            if self._validate is not None:
                self._validate(event.topic, event.payload)
            separators = (",", ":") if self._indent is None else None
            return json.dumps(event.payload, ensure_ascii=False, indent=self._indent, separators=separators, default=_default).encode()
        except (TypeError, ValueError) as error:
            raise InvalidArgument(f"an event of {event.topic!r} can't be published: {error}; nothing was sent") from error

    def decode(self, topic: str, body: bytes) -> Any:
        """The payload; DecodeError if it isn't JSON, or isn't valid."""
        try:
            payload = json.loads(body)
            if self._validate is not None:
                self._validate(topic, payload)
            return payload
        except ValueError as error:
            raise DecodeError(f"an event of {topic!r} has no valid payload: {error}") from error


def _default(value: Any) -> Any:
    if isinstance(value, (uuid.UUID, datetime.datetime, datetime.date)):
        return str(value) if isinstance(value, uuid.UUID) else value.isoformat()
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def to_headers(event: Event, more: Optional[Mapping[str, Any]] = None) -> Dict[str, str]:
    """The headers that carry what belongs to an event."""
    made = {str(name): str(value) for name, value in {**(event.headers or {}), **(more or {})}.items()}
    made.update({"id": str(event.id), "time": event.timestamp.isoformat()})
    if event.key is not None:
        made["x-event-key"] = str(event.key)
    if event.tenant_id is not None:
        made["tenant-id"] = str(event.tenant_id)
    return made


def from_frames(topic: str, payload: Any, headers: Mapping[str, str]) -> Event:
    """An event that came."""
    own = dict(headers)
    event_id, time = own.pop("id", None), own.pop("time", None)
    event = Event(topic, payload, own.pop("x-event-key", None), None, own.pop("tenant-id", None))
    if event_id is not None:
        event.id = event_id
    try:
        if time is not None:
            event.timestamp = datetime.datetime.fromisoformat(time)
    except ValueError:
        own["time"] = str(time)
    event.headers = own or None
    return event
