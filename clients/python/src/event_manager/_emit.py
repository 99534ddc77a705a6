"""EMIT as it is sent: an event's frames as they are, or for an older daemon as JSON."""

from __future__ import annotations

import binascii
import json
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Dict, List, Optional

from .errors import EventManagerError, Nak, TooOld

if TYPE_CHECKING:
    from ._requests import Requests

#: Daemons accept no longer request as JSON.
_JSON_MAX_BYTES = 4 << 20


def emit(
    requests: "Requests", id: str, level: str, frames: List[bytes], ttl: Optional[float], deliver_at: Optional[float], timeout: float
) -> "Future[Any]":
    """Sends an event of two or more frames; returns what becomes the answer. `deliver_at` is in seconds since 1970."""
    options: Dict[str, Any] = {}
    if ttl is not None:
        options["ttl"] = ttl
    if deliver_at is not None:
        options["deliverAt"] = round(deliver_at * 1000)
    data = f"{id}\0{level}".encode()
    if len(frames) == 2 and not options:  # Every daemon knows this.
        return requests.send("emit", [b"emit", b"PARAM", b"\0".join((data, *frames))], timeout, True)
    if options:
        data += b"\0" + json.dumps(options).encode()
    answer: "Future[Any]" = Future()

    def answered(first: "Future[Any]") -> None:
        if not answer.set_running_or_notify_cancel():
            return
        error = first.exception()
        if isinstance(error, Nak) and error.code == "malformed-message":  # It counts the event's frames as its own.
            fields = {"token": "emit", "id": id, "level": level, **options}
            _as_json(requests, fields, frames, timeout, error, answer)
        else:
            _pass_on(first, answer)

    requests.send("emit", [b"emit", b"PARAM", data, b"", *frames], timeout, True).add_done_callback(answered)
    return answer


def _as_json(
    requests: "Requests", fields: Dict[str, Any], frames: List[bytes], timeout: float, refused: Nak, answer: "Future[Any]"
) -> None:
    """Sends it to a daemon that knows no frames behind a message."""
    if sum(map(len, frames)) * 4 // 3 > _JSON_MAX_BYTES - 4096:
        answer.set_exception(TooOld(refused.code, refused.sentence, "an event with headers, ttl or deliver_at of more than 3 MiB"))
        return
    fields["framesBase64"] = [binascii.b2a_base64(each, newline=False).decode() for each in frames]
    try:
        second = requests.ask(fields, timeout)
    except EventManagerError as error:
        answer.set_exception(error)
    else:
        second.add_done_callback(lambda done: _pass_on(done, answer))


def _pass_on(done: "Future[Any]", answer: "Future[Any]") -> None:
    error = done.exception()
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(done.result())
