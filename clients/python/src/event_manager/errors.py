"""The errors of this package. All have the base class `EventManagerError`.

Each sentence says what happened, whether an event may have been taken, and what to do.
"""

from __future__ import annotations

from typing import Sequence


class EventManagerError(Exception):
    """The base class of all errors of this package."""


class InvalidArgument(EventManagerError, ValueError):
    """An argument can't be used; nothing was sent."""


class NoAnswer(EventManagerError):
    """The daemon did not answer in time, or there was no room for more to wait for it.

    `may_be_taken` tells whether it may have done what it was asked nevertheless.
    """

    def __init__(self, sentence: str, *, may_be_taken: bool) -> None:
        super().__init__(sentence)
        self.may_be_taken = may_be_taken


class Nak(EventManagerError):
    """The daemon refused a request; it did nothing, unless docs/protocol.md says otherwise for the code.

    `code` is one of those of docs/protocol.md, such as `unknown-service`; `sentence` is the daemon's.
    """

    def __init__(self, code: str, sentence: str, request: str = "the request") -> None:
        super().__init__(f"the daemon refused {request}: {code}: {sentence}")
        self.code = code
        self.sentence = sentence


class MayBeLost(EventManagerError):
    """Of `of` events published since the last flush, `lost` may not have been taken by the daemon.

    They may be sent again if their receivers tolerate duplicates. `Hub.emit` sends until it is answered.
    """

    def __init__(self, lost: int, of: int, why: str) -> None:
        super().__init__(
            f"{lost} of {of} published events may be lost: {why}; publish them again if receivers tolerate "
            f"duplicates, or use emit, which is confirmed"
        )
        self.lost = lost
        self.of = of
        self.why = why


class NoResponders(EventManagerError):
    """No service is subscribed to the subject of a call, or none could be reached; nobody got it."""


class CallTimeout(EventManagerError):
    """A service did not answer a call in time; it may have got it."""


class CallRefused(EventManagerError):
    """The services that got a call answered with a refusal. `replies` has what they said."""

    def __init__(self, sentence: str, replies: Sequence[object]) -> None:
        super().__init__(sentence)
        self.replies = replies


class DecodeError(EventManagerError):
    """A body or headers don't have the form or type that was asked for. Sending it again won't help."""


class Closed(EventManagerError):
    """The hub, service or subscription is closed; nothing was sent. Connect again to go on."""


class Forked(EventManagerError):
    """A service or subscription belongs to the parent process. Make another one in this process."""


class BinaryNotFound(EventManagerError):
    """`event_manager.testing` found no daemon's binary to run."""


class DaemonFailed(EventManagerError):
    """A daemon that `event_manager.testing` started ended, or did not become ready or idle in time."""
