"""What handlers return, and what publishers send."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from faststream.exceptions import SetupError
from faststream.response.publish_type import PublishType
from faststream.response.response import PublishCommand, Response

if TYPE_CHECKING:
    from faststream._internal.basic_types import SendableMessage

#: How an event is published: "none" sends it and doesn't wait; with "memory" the daemon confirms that it has it, with "disk" that
#: each durable service that it matched has it on disk.
Level = Literal["none", "memory", "disk"]
LEVELS = ("none", "memory", "disk")


class EventManagerResponse(Response):
    """What a handler returns, with options for publishing it."""

    def __init__(
        self,
        body: SendableMessage,
        *,
        headers: dict[str, Any] | None = None,
        correlation_id: str | None = None,
        level: Level | None = None,
        id: str | None = None,
        ttl: float | None = None,
        deliver_at: float | None = None,
    ) -> None:
        super().__init__(body, headers=headers, correlation_id=correlation_id)
        self.level: Level | None = level
        self.id = id
        self.ttl = ttl
        self.deliver_at = deliver_at

    def as_publish_command(self) -> EventManagerPublishCommand:
        return EventManagerPublishCommand(
            self.body,
            headers=self.headers,
            correlation_id=self.correlation_id,
            level=self.level,
            id=self.id,
            ttl=self.ttl,
            deliver_at=self.deliver_at,
            _publish_type=PublishType.PUBLISH,
        )


class EventManagerPublishCommand(PublishCommand):
    """An event to be published. `level` None is the broker's. `timeout` is that of a request, or (None) the broker's."""

    def __init__(
        self,
        message: SendableMessage,
        *,
        _publish_type: PublishType,
        subject: str = "",
        reply_to: str = "",
        headers: dict[str, Any] | None = None,
        correlation_id: str | None = None,
        level: Level | None = None,
        id: str | None = None,
        ttl: float | None = None,
        deliver_at: float | None = None,
        timeout: float | None = None,
    ) -> None:
        super().__init__(
            message,
            destination=subject,
            reply_to=reply_to,
            headers=headers,
            correlation_id=correlation_id,
            _publish_type=_publish_type,
        )
        if level is not None and level not in LEVELS:
            raise SetupError(f"level is one of {', '.join(LEVELS)}, not {level!r}; nothing was sent")
        self.level: Level | None = level
        self.id = id
        self.ttl = ttl
        self.deliver_at = deliver_at
        self.timeout = timeout

    @classmethod
    def from_cmd(cls, cmd: PublishCommand) -> EventManagerPublishCommand:
        """The same command, if it is another broker's."""
        if isinstance(cmd, EventManagerPublishCommand):
            return cmd
        return cls(
            cmd.body,
            subject=cmd.destination,
            reply_to=cmd.reply_to,
            headers=cmd.headers,
            correlation_id=cmd.correlation_id,
            timeout=getattr(cmd, "timeout", None),
            _publish_type=cmd.publish_type,
        )

    def level_of(self, default: Level) -> Level:
        """How it is published, if this is the broker's level. SetupError if that isn't possible."""
        if self.id is None and self.ttl is None and self.deliver_at is None:
            return self.level or default
        if self.level == "none":
            raise SetupError('an event with id, ttl or deliver_at is confirmed, so its level can\'t be "none"; nothing was sent')
        return self.level or ("memory" if default == "none" else default)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(body={self.body!r}, subject={self.destination!r}, headers={self.headers}, "
            f"correlation_id={self.correlation_id!r}, reply_to={self.reply_to!r}, level={self.level!r})"
        )
