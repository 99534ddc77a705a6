"""What comes with a message: properties and methods."""

from __future__ import annotations

import enum
import json
from typing import Any, Dict, Mapping, Optional

from ...errors import InvalidArgument


class DeliveryMode(enum.IntEnum):
    """Whether a confirmed message is confirmed when it is on disk."""

    Transient = 1
    Persistent = 2


TRANSIENT_DELIVERY_MODE = 1
PERSISTENT_DELIVERY_MODE = 2


class ExchangeType(str, enum.Enum):
    """How an exchange picks queues. There is no `headers` here."""

    direct = "direct"
    fanout = "fanout"
    headers = "headers"
    topic = "topic"


#: Names of properties, and of the headers that carry them.
_CARRIED = {
    "content_type": "content-type",
    "content_encoding": "x-content-encoding",  # the body is not looked at
    "correlation_id": "correlation-id",
    "reply_to": "reply-to",
    "message_id": "id",
    "type": "x-type",
    "user_id": "x-user-id",
    "app_id": "x-app-id",
    "cluster_id": "x-cluster-id",
    "expiration": "x-expiration",
    "delivery_mode": "x-delivery-mode",
    "priority": "x-priority",
    "timestamp": "x-timestamp",
}
_NUMBERS = ("delivery_mode", "priority", "timestamp")


class BasicProperties:
    """A message's properties. `headers` are values that JSON can carry."""

    def __init__(
        self,
        content_type: Optional[str] = None,
        content_encoding: Optional[str] = None,
        headers: Optional[Mapping[str, Any]] = None,
        delivery_mode: Optional[int] = None,
        priority: Optional[int] = None,
        correlation_id: Optional[str] = None,
        reply_to: Optional[str] = None,
        expiration: Optional[str] = None,
        message_id: Optional[str] = None,
        timestamp: Optional[int] = None,
        type: Optional[str] = None,
        user_id: Optional[str] = None,
        app_id: Optional[str] = None,
        cluster_id: Optional[str] = None,
    ) -> None:
        self.content_type = content_type
        self.content_encoding = content_encoding
        self.headers = headers
        self.delivery_mode = delivery_mode
        self.priority = priority
        self.correlation_id = correlation_id
        self.reply_to = reply_to
        self.expiration = expiration
        self.message_id = message_id
        self.timestamp = timestamp
        self.type = type
        self.user_id = user_id
        self.app_id = app_id
        self.cluster_id = cluster_id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BasicProperties) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        told = ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items() if value is not None)
        return f"<BasicProperties({told})>"


def to_headers(properties: Optional[BasicProperties]) -> Dict[str, str]:
    """The headers that carry properties."""
    if properties is None:
        return {}
    made = {}
    for name, header in _CARRIED.items():
        value = getattr(properties, name)
        if value is not None:
            made[header] = str(int(value) if name in _NUMBERS else value)
    if properties.headers:
        try:
            made["x-headers"] = json.dumps(dict(properties.headers), ensure_ascii=False)
        except (TypeError, ValueError) as error:
            raise InvalidArgument(f"headers can't be written as JSON: {error}; nothing was sent") from error
    return made


def from_headers(headers: Mapping[str, str]) -> BasicProperties:
    """The properties that headers carry; headers of others are among `headers`."""
    properties = BasicProperties()
    named = {header: name for name, header in _CARRIED.items()}
    own: Dict[str, Any] = {}
    for header, value in headers.items():
        name = named.get(header)
        if name in _NUMBERS:
            try:
                setattr(properties, str(name), int(value))
            except ValueError:
                own[header] = value
        elif name is not None:
            setattr(properties, name, value)
        elif header == "x-headers":
            try:
                found = json.loads(value)
            except ValueError:
                found = None
            own.update(found if isinstance(found, dict) else {header: value})
        elif header != "x-exchange":
            own[header] = value
    properties.headers = own or None
    return properties


class _Method:
    """Fields by name."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def __repr__(self) -> str:
        return f"<{type(self).__qualname__}({', '.join(f'{name}={value!r}' for name, value in self.__dict__.items())})>"


class Basic:
    """Methods that come with messages."""

    class Deliver(_Method):
        """consumer_tag, delivery_tag, redelivered, exchange, routing_key."""

    class GetOk(_Method):
        """delivery_tag, redelivered, exchange, routing_key, message_count."""

    class Return(_Method):
        """reply_code, reply_text, exchange, routing_key."""


class Queue:
    """Answers of queues."""

    class DeclareOk(_Method):
        """queue, message_count, consumer_count."""

    class Ok(_Method):
        """message_count where there is one."""


class Frame:
    """An answer; what counts is its `method`."""

    def __init__(self, method: Any) -> None:
        self.method = method
