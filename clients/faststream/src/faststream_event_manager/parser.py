"""Between events and messages: the headers of docs/protocol.md, in both directions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from event_manager import Event
from faststream.message import StreamMessage, decode_message

from . import subjects
from .message import EventManagerMessage
from .subjects import Pattern

if TYPE_CHECKING:
    from faststream._internal.basic_types import DecodedMessage

    from .response import EventManagerPublishCommand

CONTENT_TYPE, CORRELATION_ID, REPLY_TO, ID = "content-type", "correlation-id", "reply-to", "id"


class EventParser:
    """Makes a message of an event. `patterns` gives the parameters of its subject."""

    def __init__(self, patterns: Callable[[], Sequence[Pattern]] = tuple) -> None:
        self._patterns = patterns

    async def parse_message(self, message: Event[bytes]) -> EventManagerMessage:
        headers = message.headers
        return EventManagerMessage(
            raw_message=message,
            body=message.raw,
            headers=dict(headers),
            path=subjects.match(self._patterns(), message.subject) or {},
            reply_to=headers.get(REPLY_TO, ""),
            content_type=headers.get(CONTENT_TYPE),
            correlation_id=headers.get(CORRELATION_ID),
            message_id=headers.get(ID),
        )

    async def decode_message(self, msg: StreamMessage[Any]) -> DecodedMessage:
        return decode_message(msg)


def headers_of(cmd: EventManagerPublishCommand, content_type: str | None) -> dict[str, str]:
    """The headers frame of what is to be published. Values that aren't text are written as JSON."""
    headers = text_headers(cmd.headers)
    own = {
        CONTENT_TYPE: content_type,
        CORRELATION_ID: cmd.correlation_id,
        REPLY_TO: cmd.reply_to,
        ID: cmd.id,
    }
    headers.update({name: value for name, value in own.items() if value})
    return headers


def text_headers(headers: Mapping[str, Any] | None) -> dict[str, str]:
    """Headers as text."""
    return {str(name): value if isinstance(value, str) else json.dumps(value, default=str) for name, value in (headers or {}).items()}
