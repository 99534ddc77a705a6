"""What services answer to a call."""

from __future__ import annotations

import binascii
from typing import Any, Callable, Dict, List, NamedTuple

from .errors import CallRefused, CallTimeout, EventManagerError, NoAnswer, NoResponders


class Reply(NamedTuple):
    """What a service answered to a call. `status` is "ack", "nak", "timeout" or "unreachable"."""

    service: str
    status: str
    data: bytes


def replies_of(data: Dict[str, Any]) -> List[Reply]:
    """The replies in the daemon's answer."""
    return [
        Reply(
            each["service"],
            each["status"],
            binascii.a2b_base64(each["dataBase64"]) if "dataBase64" in each else str(each.get("data", "")).encode(),
        )
        for each in data["results"]
    ]


def first(subject: str, replies: List[Reply], decode: Callable[[bytes], Any], timeout: float) -> Any:
    """The first reply that is an ACK, decoded; else NoResponders, CallTimeout or CallRefused."""
    for each in replies:
        if each.status == "ack":
            return decode(each.data)
    told = ", ".join(f"{each.service}: {each.status}" for each in replies) or "no service is subscribed to it"
    statuses = {each.status for each in replies}
    if "timeout" in statuses:
        raise CallTimeout(f"no answer to {subject!r} within {timeout} s ({told}); a service may have got it; ask again if doing it twice is no harm, or with more time")
    if "nak" in statuses:
        raise CallRefused(f"{subject!r} was refused ({told}); they got it; their replies say why", replies)
    raise NoResponders(f"nobody answers to {subject!r} ({told}); nobody got it; start a service that subscribes to it and is registered, then ask again")


def unanswered(error: NoAnswer) -> EventManagerError:
    """What a call raises if the daemon doesn't answer."""
    return CallTimeout(str(error)) if error.may_be_taken else error
