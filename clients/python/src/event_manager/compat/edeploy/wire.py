"""Messages and events as bytes."""

from __future__ import annotations

import json
from typing import Any, Union

from ..._messages import Frames
from ...errors import InvalidArgument
from .messages import DataType, Event, Message


def text(data: Any) -> str:
    if data is None:
        return ""
    if isinstance(data, (bytes, bytearray)):
        try:
            return bytes(data).decode()
        except UnicodeDecodeError:
            raise InvalidArgument("the data of an event is text in UTF-8; nothing was sent") from None
    return str(data)


def payload(event: Event) -> bytes:
    source = "" if event.source_id is None else str(event.source_id)
    fields = [text(event.data), event.subject, event.type or "", "true" if event.sync else "false", source]
    if any("\0" in each for each in fields):
        raise InvalidArgument("an event's fields contain no NUL; nothing was sent")
    return "\0".join(fields).encode()


def event_of(payload: bytes, subject: str) -> Event:
    """The event in a payload; one that isn't of this form is the data of the subject under which it came."""
    fields = payload.decode("utf-8", "replace").split("\0")
    if len(fields) < 2 or (subject and fields[1] != subject):
        return Event(subject, None, _data(payload))
    fields += [""] * 5
    number = fields[4].lstrip("-")
    source = int(fields[4]) if number.isascii() and number.isdigit() else None
    return Event(fields[1], fields[2] or None, fields[0], source, fields[3].lower() == "true")


def _data(frame: bytes) -> Any:
    try:
        return frame.decode()
    except UnicodeDecodeError:
        return frame


def written(message: Message, token: bytes) -> Frames:
    """A message's frames."""
    kind = message.data_type
    data = message.data
    if data is None:
        body = b""
    elif isinstance(data, (bytes, bytearray)):
        body = bytes(data)
    elif isinstance(data, str):
        body = data.encode()
    else:
        try:
            body = json.dumps(data).encode()
        except (TypeError, ValueError) as error:
            raise InvalidArgument(f"the data of a message can't be written: {error}; nothing was sent") from error
    name = kind.encode() if isinstance(kind, str) else b"json" if kind == DataType.json else b"%d" % kind
    return [token, name, body]


def read(token: int, frames: Frames) -> Message:
    """A message from its frames."""
    kind = _data_type(frames[1]) if len(frames) > 2 else DataType.param
    body = frames[2] if len(frames) > 2 else frames[1] if len(frames) > 1 else b""
    timeout = frames[3] if len(frames) > 3 else b""
    message = Message(token, kind if body else DataType.empty, _data(body) if body else None)
    if timeout.isdigit():
        message.timeout = int(timeout)
    return message


def _data_type(frame: bytes) -> "Union[DataType, int, str]":
    name = frame.decode("ascii", "replace")
    if name.lower() in DataType.__members__:
        return DataType[name.lower()]
    number: int
    if name.isdigit():
        number = int(name)
    elif len(frame) in (1, 4, 8) and name[:2] not in ("0x", "0X"):
        number = int.from_bytes(frame, "little")
    else:
        try:
            number = int(name or "0", 0)
        except ValueError:
            return name
    return DataType(number) if number in DataType._value2member_map_ else number
