"""Publishers: subjects with what is common to their events."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from event_manager import Receipt
from faststream._internal.endpoint.publisher import PublisherSpecification, PublisherUsecase
from faststream._internal.endpoint.publisher.fake import FakePublisher
from faststream.message import gen_cor_id
from faststream.response.publish_type import PublishType

from .configs import (
    EventManagerBrokerConfig,
    EventManagerPublisherConfig,
    EventManagerPublisherSpecificationConfig,
)
from .message import EventManagerMessage
from .response import EventManagerPublishCommand, Level
from .specification import EventManagerPublisherSpecification

if TYPE_CHECKING:
    from faststream._internal.basic_types import SendableMessage
    from faststream._internal.producer import ProducerProto
    from faststream._internal.types import PublisherMiddleware
    from faststream.response.response import PublishCommand


class EventManagerPublisher(PublisherUsecase):
    """Publishes to a subject: by `publish`, or what a decorated handler returns."""

    _outer_config: EventManagerBrokerConfig

    def __init__(self, config: EventManagerPublisherConfig, specification: PublisherSpecification[Any, Any]) -> None:
        super().__init__(config, specification)
        self._subject = config.subject
        self.headers = config.headers
        self.reply_to = config.reply_to
        self.level: Level | None = config.level

    @property
    def subject(self) -> str:
        """Its subject, with the prefixes of its routers."""
        return f"{self._outer_config.prefix}{self._subject}"

    async def publish(
        self,
        message: SendableMessage = None,
        subject: str = "",
        *,
        reply_to: str = "",
        headers: dict[str, Any] | None = None,
        correlation_id: str | None = None,
        level: Level | None = None,
        id: str | None = None,
        ttl: float | None = None,
        deliver_at: float | None = None,
    ) -> Receipt | None:
        """Publishes an event; see `EventManagerBroker.publish`."""
        cmd = EventManagerPublishCommand(
            message,
            subject=subject or self.subject,
            reply_to=reply_to or self.reply_to,
            headers=self.headers | (headers or {}),
            correlation_id=correlation_id or correlation_id_of(self._outer_config),
            level=level or self.level,
            id=id,
            ttl=ttl,
            deliver_at=deliver_at,
            _publish_type=PublishType.PUBLISH,
        )
        receipt: Receipt | None = await self._basic_publish(cmd, producer=self._outer_config.producer, _extra_middlewares=())
        return receipt

    async def _publish(self, cmd: PublishCommand, *, _extra_middlewares: Iterable[PublisherMiddleware]) -> None:
        """Publishes what a handler returned."""
        cmd = EventManagerPublishCommand.from_cmd(cmd)
        cmd.destination = self.subject
        cmd.reply_to = cmd.reply_to or self.reply_to
        cmd.level = cmd.level or self.level
        cmd.add_headers(self.headers, override=False)
        await self._basic_publish(cmd, producer=self._outer_config.producer, _extra_middlewares=_extra_middlewares)

    async def request(
        self,
        message: SendableMessage = None,
        subject: str = "",
        *,
        headers: dict[str, Any] | None = None,
        correlation_id: str | None = None,
        timeout: float | None = 30.0,
    ) -> EventManagerMessage:
        """Publishes an event and waits for the answer to it; see `EventManagerBroker.request`."""
        cmd = EventManagerPublishCommand(
            message,
            subject=subject or self.subject,
            headers=self.headers | (headers or {}),
            correlation_id=correlation_id or correlation_id_of(self._outer_config),
            level=self.level,
            timeout=timeout,
            _publish_type=PublishType.REQUEST,
        )
        answer: EventManagerMessage = await self._basic_request(cmd, producer=self._outer_config.producer)
        return answer


class EventManagerFakePublisher(FakePublisher):
    """Publishes the answer to an event that has `reply-to`."""

    def __init__(self, producer: ProducerProto[Any], subject: str) -> None:
        super().__init__(producer=producer)
        self.subject = subject

    def patch_command(self, cmd: PublishCommand) -> EventManagerPublishCommand:
        answer = EventManagerPublishCommand.from_cmd(super().patch_command(cmd))
        answer.destination = self.subject
        # These are for what publishers make of it.
        answer.id = answer.ttl = answer.deliver_at = None
        return answer


def correlation_id_of(config: Any) -> str:
    """A new correlation id, as the broker makes them."""
    # FastStream 0.7.4 has no `id_generator`.
    return str(getattr(config, "id_generator", gen_cor_id)())


def create_publisher(
    *,
    subject: str,
    headers: dict[str, Any] | None,
    reply_to: str,
    level: Level | None,
    config: EventManagerBrokerConfig,
    title: str | None,
    description: str | None,
    schema: Any | None,
    include_in_schema: bool,
) -> EventManagerPublisher:
    specification = EventManagerPublisherSpecification(
        _outer_config=config,
        specification_config=EventManagerPublisherSpecificationConfig(
            subject=subject, title_=title, description_=description, schema_=schema, include_in_schema=include_in_schema
        ),
    )
    return EventManagerPublisher(
        EventManagerPublisherConfig(
            _outer_config=config, subject=subject, headers=headers or {}, reply_to=reply_to, level=level
        ),
        specification,
    )
