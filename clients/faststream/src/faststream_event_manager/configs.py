"""What brokers, routers, subscribers and publishers are made with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from faststream._internal.configs import (
    BrokerConfig,
    PublisherSpecificationConfig,
    PublisherUsecaseConfig,
    SubscriberSpecificationConfig,
    SubscriberUsecaseConfig,
)
from faststream._internal.constants import EMPTY
from faststream._internal.producer import ProducerUnset
from faststream.exceptions import IncorrectState
from faststream.middlewares import AckPolicy

from .response import Level
from .subjects import Dialect

if TYPE_CHECKING:
    from event_manager.aio import AsyncHub

Delivery = Literal["live", "queue"]


@dataclass(kw_only=True)
class EventManagerBrokerConfig(BrokerConfig):
    """The broker's, or a router's part of it. `services` are the names that its subscribers use."""

    producer: Any = field(default_factory=ProducerUnset)
    start_timeout: float = 30.0
    services: dict[str, Any] = field(default_factory=dict)
    connected: AsyncHub | None = field(default=None, init=False, repr=False)

    @property
    def hub(self) -> AsyncHub:
        if self.connected is None:
            raise IncorrectState("the broker isn't connected: await broker.connect() first")
        return self.connected


@dataclass(kw_only=True)
class ServiceOptions:
    """How a service works; see `EventManagerBroker.subscriber`."""

    name: str
    delivery: Delivery | None
    credit: int
    order_by: str | int | None
    max_handling: float


@dataclass(kw_only=True)
class EventManagerSubscriberConfig(SubscriberUsecaseConfig):
    _outer_config: BrokerConfig = field(default_factory=EventManagerBrokerConfig)
    templates: Sequence[str]
    dialect: Dialect
    service: ServiceOptions | None
    max_workers: int

    @property
    def ack_policy(self) -> AckPolicy:
        if self.service is None:
            # There is nobody to whom it could be said.
            return AckPolicy.MANUAL
        if self._ack_policy is not EMPTY:
            return self._ack_policy
        whole: AckPolicy = self._outer_config.ack_policy
        return AckPolicy.NACK_ON_ERROR if whole is EMPTY else whole


@dataclass(kw_only=True)
class EventManagerSubscriberSpecificationConfig(SubscriberSpecificationConfig):
    templates: Sequence[str]
    service: str | None


@dataclass(kw_only=True)
class EventManagerPublisherConfig(PublisherUsecaseConfig):
    _outer_config: BrokerConfig = field(default_factory=EventManagerBrokerConfig)
    subject: str
    headers: dict[str, Any]
    reply_to: str
    level: Level | None


@dataclass(kw_only=True)
class EventManagerPublisherSpecificationConfig(PublisherSpecificationConfig):
    subject: str
