"""Client of event-manager, the ZeroMQ event router.

    with event_manager.connect() as hub:
        hub.publish("order.created", {"id": 1})
        hub.flush()
"""

import importlib
from typing import TYPE_CHECKING, Any, List

from ._about import VERSION as __version__
from ._calls import Reply
from ._event import Event
from .errors import (
    CallRefused,
    CallTimeout,
    Closed,
    DecodeError,
    EventManagerError,
    Forked,
    InvalidArgument,
    LeaseLost,
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

if TYPE_CHECKING:
    from ._subscriber import Subscription
    from .curve import Curve
    from .lease import Lease
    from .runner import run
    from .service import Retry, Service

__all__ = [
    "CallRefused",
    "CallTimeout",
    "Closed",
    "Curve",
    "DecodeError",
    "Event",
    "EventManagerError",
    "Forked",
    "Hub",
    "InvalidArgument",
    "Lease",
    "LeaseLost",
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
    "__version__",
    "connect",
    "run",
]

#: Not every program needs these, and they take longer to import than the rest.
_LATER = {"Curve": "curve", "Lease": "lease", "Retry": "service", "Service": "service", "Subscription": "_subscriber", "run": "runner"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f".{_LATER[name]}", __name__), name)
    return value


def __dir__() -> List[str]:
    return sorted({*globals(), *_LATER})
