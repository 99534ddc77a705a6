"""Events of some domains."""

from __future__ import annotations

from typing import Any, Dict, Optional

from .event_base import Event


class _Named(Event):
    """An event whose domain and action are those of its class."""

    _domain = ""
    _action = ""

    def __init__(self, data: Optional[Dict[str, Any]] = None, **fields: Any) -> None:
        super().__init__(domain=self._domain, action=self._action, data={} if data is None else data, **fields)


def _named(name: str, domain: str, action: str) -> Any:
    documentation = f"`{domain}.{action}`."
    return type(name, (_Named,), {"_domain": domain, "_action": action, "__doc__": documentation, "__module__": __name__})


OrderCreatedEvent = _named("OrderCreatedEvent", "order", "created")
OrderPaidEvent = _named("OrderPaidEvent", "order", "paid")
OrderShippedEvent = _named("OrderShippedEvent", "order", "shipped")
OrderCancelledEvent = _named("OrderCancelledEvent", "order", "cancelled")
UserRegisteredEvent = _named("UserRegisteredEvent", "user", "registered")
UserUpdatedEvent = _named("UserUpdatedEvent", "user", "updated")
UserDeletedEvent = _named("UserDeletedEvent", "user", "deleted")
PaymentProcessedEvent = _named("PaymentProcessedEvent", "payment", "processed")
PaymentFailedEvent = _named("PaymentFailedEvent", "payment", "failed")
