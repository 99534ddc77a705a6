"""Client of event-manager, the ZeroMQ event router.

    with event_manager.connect() as hub:
        hub.publish("order.created", {"id": 1})
        hub.flush()
"""

from ._calls import Reply
from ._event import Event
from ._subscriber import Subscription
from .errors import (
    CallRefused,
    CallTimeout,
    Closed,
    DecodeError,
    EventManagerError,
    Forked,
    InvalidArgument,
    MayBeLost,
    Missing,
    Nak,
    NoAnswer,
    NoResponders,
    NotFinished,
    Reject,
    TooOld,
)
from .hub import Hub, Receipt, Stats, connect
from .runner import run
from .service import Retry, Service

__all__ = [
    "CallRefused",
    "CallTimeout",
    "Closed",
    "DecodeError",
    "Event",
    "EventManagerError",
    "Forked",
    "Hub",
    "InvalidArgument",
    "MayBeLost",
    "Missing",
    "Nak",
    "NoAnswer",
    "NoResponders",
    "NotFinished",
    "Receipt",
    "Reject",
    "Reply",
    "Retry",
    "Service",
    "Stats",
    "Subscription",
    "TooOld",
    "connect",
    "run",
]
