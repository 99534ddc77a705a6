"""The errors of this package. All have the base class `EventManagerError`.

Each sentence says what happened, whether an event may have been taken, and what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Dict, Sequence

if TYPE_CHECKING:
    from ._calls import Reply


class EventManagerError(Exception):
    """The base class of all errors of this package.

    `may_be_taken`: whether the event or request that failed may have been taken nevertheless.
    """

    may_be_taken: bool = False


class InvalidArgument(EventManagerError, ValueError):
    """An argument can't be used; nothing was sent."""


class Missing(EventManagerError, ImportError):
    """A package is needed for this and isn't installed; nothing was sent. The sentence says how to install it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package {package}; nothing was done; pip install 'event-manager[{extra}]'")


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
        # What failed to be written may be in memory, or with some receivers.
        self.may_be_taken = code in ("store-failed", "engine-refused")
        taken = "it may have been done in part" if self.may_be_taken else "nothing was done"
        super().__init__(f"the daemon refused {request}: {code}: {sentence}; {taken}; {_ADVICE.get(code, _ANY)}")
        self.code = code
        self.sentence = sentence


_ANY = "mend the request (docs/protocol.md explains the code)"
#: What to do after a NAK with this code.
_ADVICE: Dict[str, str] = {
    "busy": "try again later",
    "stopping": "try again when the daemon is back",
    "store-failed": "see to the daemon's disk, then send it again with the same id",
    "engine-failed": "see that the engine runs and the daemon reaches it, and ask again",
    "engine-refused": "mend the event or the engine; the daemon has it as a dead letter",
    "too-large": "send less, or raise the daemon's limits",
    "no-port": "give the daemon more ports (minStreamerPort, maxStreamerPort)",
    "no-store": "give the daemon a stateDir",
    "too-many-subscriptions": "end some, or raise the daemon's limit",
    "too-many-subjects": "use fewer or wider patterns, or raise the daemon's limit",
    "unknown-subscription": "subscribe again",
    "unknown-service": "check the service's name, and that it has subscribed",
    "held": "wait until it is released, or its time is over",
    "lost": "acquire it again",
    "no-state": "give the daemon a stateDir",
    "full": "release some first",
    "in-use": "end the service first, or use it as it is",
}


class TooOld(Nak):
    """The daemon doesn't know an option or a request: it is older than what this client was asked for.

    Use a newer daemon, or leave the option out. `field` is the option's name in the request, empty if it is the request itself.
    """

    def __init__(self, code: str, sentence: str, request: str = "the request", field: str = "") -> None:
        asked = f"{field} of {request}" if field else request
        EventManagerError.__init__(
            self,
            f"the daemon does not know {asked}: {code}: {sentence}; nothing was done; "
            f"use a newer daemon, or leave that out",
        )
        self.code = code
        self.sentence = sentence
        self.field = field


class MayBeLost(EventManagerError):
    """Of `of` events published since the last flush, `lost` may not have been taken by the daemon.

    They may be sent again if their receivers tolerate duplicates. `Hub.emit` sends until it is answered.
    """

    may_be_taken = True

    def __init__(self, lost: int, of: int, why: str) -> None:
        super().__init__(
            f"{lost} of {of} published events may be lost: {why}; publish them again if receivers tolerate "
            f"duplicates, or use emit, which is confirmed"
        )
        self.lost = lost
        self.of = of
        self.why = why


class NotFinished(MayBeLost):
    """A service was stopped while handlers still ran: `lost` events have not been answered, and come to other workers too."""

    def __init__(self, lost: int, service: str, drain: float) -> None:
        EventManagerError.__init__(
            self,
            f"handlers of service {service!r} still run after {drain} s, for {lost} events; these come to other workers too, "
            f"so stop with a longer drain if that should not be",
        )
        self.lost = self.of = lost
        self.why = f"handlers of service {service!r} still run after {drain} s"


class LeaseLost(EventManagerError):
    """A lease is not held any more: another program may do what it protects. What was done before it was noticed may overlap."""

    may_be_taken = True


class NoResponders(EventManagerError):
    """No service is subscribed to the subject of a call, or none could be reached; nobody got it."""


class CallTimeout(EventManagerError):
    """A service did not answer a call in time; it may have got it."""

    may_be_taken = True


class CallRefused(EventManagerError):
    """The services that got a call answered with a refusal. `replies` has what they said."""

    may_be_taken = True

    def __init__(self, sentence: str, replies: "Sequence[Reply]") -> None:
        super().__init__(sentence)
        self.replies = replies


class DecodeError(EventManagerError):
    """A body or headers don't have the form or type that was asked for. Sending it again won't help.

    It came, so it was taken: mend its sender, or ask for another type.
    """

    may_be_taken = True


class Reject(EventManagerError):
    """Raised by a handler: the event is never tried again, and becomes a dead letter with this reason."""

    may_be_taken = True


class Closed(EventManagerError):
    """The hub, service or subscription is closed. Connect again to go on."""

    def __init__(self, sentence: str, *, may_be_taken: bool = False) -> None:
        super().__init__(sentence)
        self.may_be_taken = may_be_taken


class Forked(EventManagerError):
    """A service or subscription belongs to the parent process. Make another one in this process."""


class BinaryNotFound(EventManagerError):
    """`event_manager.testing` found no daemon's binary to run."""


class DaemonFailed(EventManagerError):
    """A daemon that `event_manager.testing` started ended, or did not become ready or idle in time."""
