"""What AsyncAPI documents say of subscribers and publishers."""

from __future__ import annotations

import dataclasses
from typing import Any

from faststream._internal.endpoint.publisher import PublisherSpecification
from faststream._internal.endpoint.subscriber import SubscriberSpecification
from faststream.specification.asyncapi.utils import resolve_payloads
from faststream.specification.schema import Message, Operation, PublisherSpec, SubscriberSpec

from .configs import (
    EventManagerBrokerConfig,
    EventManagerPublisherSpecificationConfig,
    EventManagerSubscriberSpecificationConfig,
)

#: FastStream 0.7.4 documents no address beside a channel's name.
_HAS_ADDRESS = any(each.name == "address" for each in dataclasses.fields(SubscriberSpec))


def _address(subject: str) -> dict[str, Any]:
    return {"address": subject} if _HAS_ADDRESS else {}


class EventManagerSubscriberSpecification(
    SubscriberSpecification[EventManagerBrokerConfig, EventManagerSubscriberSpecificationConfig]
):
    """A channel for each of a subscriber's subjects."""

    @property
    def channel_labels(self) -> list[str]:
        return [f"{self._outer_config.prefix}{each}" for each in self.config.templates]

    @property
    def name(self) -> str:
        return self._name(self.channel_labels[0])

    def _name(self, subject: str) -> str:
        title = self.config.title_
        if not title:
            return f"{subject}:{self.call_name}"
        return f"{title}:{subject}" if len(self.config.templates) > 1 and _HAS_ADDRESS else title

    def get_schema(self) -> dict[str, SubscriberSpec]:
        payloads = self.get_payloads()
        description = self.description
        if self.config.service is not None:
            description = f"{description}\n\nService: {self.config.service}" if description else f"Service: {self.config.service}"
        labels = self.channel_labels
        if self.config.title_ and not _HAS_ADDRESS:
            # It knows one channel of a title.
            description = "\n\n".join([*([description] if description else []), f"Subjects: {', '.join(labels)}"])
            labels = labels[:1]
        specs = {}
        for subject in labels:
            name = self._name(subject)
            operation = Operation(message=Message(title=f"{name}:Message", payload=resolve_payloads(payloads)), bindings=None)
            specs[name] = SubscriberSpec(description=description, operation=operation, bindings=None, **_address(subject))
        return specs


class EventManagerPublisherSpecification(
    PublisherSpecification[EventManagerBrokerConfig, EventManagerPublisherSpecificationConfig]
):
    """A publisher's channel."""

    @property
    def subject(self) -> str:
        return f"{self._outer_config.prefix}{self.config.subject}"

    @property
    def name(self) -> str:
        return self.config.title_ or f"{self.subject}:Publisher"

    def get_schema(self) -> dict[str, PublisherSpec]:
        payload = resolve_payloads(self.get_payloads(), "Publisher")
        operation = Operation(message=Message(title=f"{self.name}:Message", payload=payload), bindings=None)
        spec = PublisherSpec(description=self.config.description_, operation=operation, bindings=None, **_address(self.subject))
        return {self.name: spec}
