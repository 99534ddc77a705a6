"""Events, and how they become bytes."""

from __future__ import annotations

import dataclasses
import datetime
import json
import uuid
from typing import Any, Dict, Protocol

from ...errors import DecodeError, InvalidArgument


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat()


@dataclasses.dataclass
class Event:
    """Something that happened in a domain. `data` is what JSON can carry."""

    domain: str
    action: str
    data: Dict[str, Any] = dataclasses.field(default_factory=dict)
    event_id: str = dataclasses.field(default_factory=lambda: str(uuid.uuid4()))
    timestamp: str = dataclasses.field(default_factory=_now)
    version: str = "1.0"

    def get_routing_key(self) -> str:
        """`domain.action`."""
        return f"{self.domain}.{self.action}"

    def to_dict(self) -> Dict[str, Any]:
        """Its fields."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Dict[str, Any]) -> "Event":
        """An event of these fields; DecodeError if they are no event's. Fields that are not known are left out."""
        known = {each.name for each in dataclasses.fields(Event)}
        made = {name: value for name, value in fields.items() if name in known}
        if not isinstance(made.get("domain"), str) or not isinstance(made.get("action"), str):
            raise DecodeError("an event has a domain and an action")
        if not isinstance(made.get("data", {}), dict):
            raise DecodeError("an event's data is an object")
        return Event(**made)


class EventHandler(Protocol):
    """What handles events; `handle` may be async or not."""

    async def handle(self, event: Event) -> None:
        """Handles an event; if it raises, the event is rejected."""


class EventSerializer:
    """Events as JSON."""

    @staticmethod
    def serialize(event: Event) -> bytes:
        """An event's bytes; InvalidArgument if its data can't be written as JSON."""
        try:
            return json.dumps(event.to_dict(), ensure_ascii=False).encode()
        except (TypeError, ValueError) as error:
            raise InvalidArgument(f"event {event.get_routing_key()} can't be written as JSON: {error}; nothing was sent") from error

    @staticmethod
    def deserialize(body: "bytes | str") -> Event:
        """The event in some bytes; DecodeError if there is none."""
        try:
            fields = json.loads(body)
        except ValueError as error:
            raise DecodeError(f"an event is JSON: {error}") from error
        if not isinstance(fields, dict):
            raise DecodeError("an event is a JSON object")
        return Event.from_dict(fields)
