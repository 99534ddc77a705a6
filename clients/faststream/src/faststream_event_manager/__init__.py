"""A broker for FastStream: event-manager, the ZeroMQ event router.

    broker = EventManagerBroker("tcp://localhost:5101")

    @broker.subscriber("order.*", service="Billing", delivery="queue")
    async def bill(order: Order) -> None: ...
"""

from .annotations import EventManagerMessage
from .broker import EventManagerBroker
from .response import EventManagerPublishCommand, EventManagerResponse
from .router import EventManagerPublisher, EventManagerRoute, EventManagerRouter
from .testing import TestEventManagerBroker

__all__ = [
    "EventManagerBroker",
    "EventManagerMessage",
    "EventManagerPublishCommand",
    "EventManagerPublisher",
    "EventManagerResponse",
    "EventManagerRoute",
    "EventManagerRouter",
    "TestEventManagerBroker",
]
