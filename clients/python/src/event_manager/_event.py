"""Events: how they lie in a message's frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Dict, Generic, List, Mapping, Optional, TypeVar

from . import _check, _typed
from ._zmtp import SHORT_HEADS, Message, frame
from .errors import InvalidArgument

if TYPE_CHECKING:
    from ._worker import Delivery

T = TypeVar("T")

#: A subject's bytes in UTF-8, as the daemon's `limits.maxSubjectBytes` is by default.
SUBJECT_MAX_BYTES = 1024

_subjects: Dict[str, bytes] = {}


def subject_bytes(subject: str) -> bytes:
    """A subject as it is sent; InvalidArgument if it can't be."""
    return _check.text(subject, "a subject", SUBJECT_MAX_BYTES)


def encode(subject: str, body: Any, headers: Optional[Mapping[str, str]]) -> bytes:
    """An event as a message's bytes."""
    first = _subjects.get(subject) if type(subject) is str else None
    if first is None:
        first = frame(subject_bytes(subject), more=True)
        if len(_subjects) >= 1024:
            _subjects.clear()
        _subjects[subject] = first
    data = body if type(body) is bytes else _typed.encode(body)
    if headers:
        return first + frame(data, more=True) + frame(_typed.encode_headers(headers))
    size = len(data)
    if size < 256:
        return first + SHORT_HEADS[size] + data
    return b"%b\x02%b%b" % (first, size.to_bytes(8, "big"), data)


def _nobody(_: "Delivery", word: bytes) -> None:
    """There is nobody to say it to."""


def _one_line(reason: str) -> bytes:
    return " ".join(reason.split())[:200].encode()


#: The body is the bytes.
_RAW: Any = object()


class Event(Generic[T]):
    """An event that came.

    `body` is what the handler's annotation asks for, or the bytes; `raw` is always the bytes, decompressed. `frames` are as they
    came. `attempt` is 1, and more if it may have been delivered before. `id` is the number of this delivery, None for plain
    subscribers.
    """

    __slots__ = ("frames", "_body", "id", "attempt", "_headers", "_delivery", "_say")

    def __init__(self, frames: Message, body: T = _RAW, id: Optional[int] = None, attempt: int = 1) -> None:
        self.frames = frames
        self._body = body
        self.id = id
        self.attempt = attempt
        self._headers: Optional[Dict[str, str]] = None
        self._delivery: "Optional[Delivery]" = None
        self._say: "Callable[[Delivery, bytes], None]" = _nobody

    @property
    def subject(self) -> str:
        """What the event is about: its first frame, up to the first NUL."""
        return subject_of(self.frames).decode("utf-8", "replace")

    @property
    def body(self) -> T:
        """The body, as the type that was asked for. DecodeError if it was compressed and can't be read."""
        body = self._body
        return self.raw if body is _RAW else body  # type: ignore[return-value]

    @property
    def raw(self) -> bytes:
        """The body's bytes. DecodeError if it was compressed and can't be read."""
        return content_of(self.frames)

    @property
    def headers(self) -> Dict[str, str]:
        """The headers in the third frame; none if there are none."""
        if self._headers is None:
            self._headers = _typed.decode_headers(self.frames[2]) if len(self.frames) > 2 else {}
        return self._headers

    def ack(self) -> bool:
        """The event is done. Of several last words (`ack`, `nak`, `term`) the first counts; whether this is it. By any thread."""
        return self._held().answer(self._say, b"ACK")

    def nak(self, delay: Optional[float] = None, reason: str = "") -> bool:
        """It is to be tried again, after so many seconds, or (None) as the daemon thinks."""
        if delay is None and reason:
            delay = 0.0
        if delay is not None and not 0 <= delay <= 86400:
            raise InvalidArgument("a delay is 0 to 86400 seconds; nothing was said")
        rest = b"" if delay is None else b" %d %b" % (round(delay * 1000), _one_line(reason))
        return self._held().answer(self._say, b"NAK", rest.rstrip())

    def term(self, reason: str = "") -> bool:
        """It becomes a dead letter."""
        return self._held().answer(self._say, b"TERM", (b" " + _one_line(reason)).rstrip())

    def wip(self) -> None:
        """It is still worked on: `ackTimeout` starts again. While a handler runs, this is said by itself."""
        delivery = self._held()
        self._say(delivery, b"WIP %d" % delivery.id)

    def _held(self) -> "Delivery":
        if self._delivery is None:
            raise InvalidArgument("only an event that a service got can be answered; nothing was said")
        return self._delivery

    def __repr__(self) -> str:
        return f"Event({self.subject!r}, {self.raw[:60]!r}, id={self.id}, attempt={self.attempt})"


def subject_of(frames: List[bytes]) -> bytes:
    """The bytes of an event's subject."""
    return frames[0].partition(b"\0")[0]


def content_of(frames: List[bytes]) -> bytes:
    """An event's body, decompressed if it is compressed."""
    body = body_of(frames)
    if len(frames) > 2 and b"content-encoding" in frames[2]:
        encoding = _typed.decode_headers(frames[2]).get("content-encoding")
        if encoding is not None:
            from . import _compression

            return _compression.decompress(encoding, body)
    return body


def body_of(frames: List[bytes]) -> bytes:
    """An event's second frame; or, if it has only one, what is behind its first NUL."""
    return frames[1] if len(frames) > 1 else frames[0].partition(b"\0")[2]
