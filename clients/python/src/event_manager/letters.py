"""Dead letters: events that no worker could handle. `Hub.dead_letters` and `Service.on_dead_letter` give them."""

from __future__ import annotations

import base64
import dataclasses
import json
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Union

from ._event import Event
from .errors import DecodeError, InvalidArgument

#: Asks the daemon, and returns the answer's data.
Ask = Callable[[Dict[str, Any]], Any]


@dataclasses.dataclass(frozen=True)
class DeadLetter:
    """An event that became a dead letter: whose, why, and after how many attempts. Times are in seconds since 1970.

    `number` is its number in the store; None for one that `Service.on_dead_letter` got. `frames` are the event's own; None in a
    list, which doesn't tell them: see `DeadLetters.show`.
    """

    service: str
    subject: str
    reason: str
    detail: str
    attempts: int
    first_delivery: Optional[float]
    last_delivery: float
    number: Optional[int] = None
    time: Optional[float] = None
    frames: Optional[List[bytes]] = None

    @property
    def event(self) -> "Event[bytes]":
        """The event, as it was."""
        if self.frames is None:
            raise InvalidArgument("a list of dead letters does not tell their frames; use show")
        return Event(self.frames, attempt=self.attempts)


class Settled(NamedTuple):
    """How many letters were replayed or deleted; why it didn't go on (`queue-full`), if it didn't."""

    letters: int
    stopped: Optional[str] = None


def of_account(account: Dict[str, Any], frames: Optional[List[bytes]] = None) -> DeadLetter:
    """A letter of what the daemon tells about it."""
    first = account.get("firstDeliveryMs")
    return DeadLetter(
        account.get("service", ""),
        account.get("subject", ""),
        account.get("reason", ""),
        account.get("detail", ""),
        account.get("attempts", 0),
        None if first is None else first / 1000,
        account.get("lastDeliveryMs", 0) / 1000,
        account.get("seq"),
        account["timeMs"] / 1000 if "timeMs" in account else None,
        frames,
    )


def of_event(event: "Event[Any]") -> DeadLetter:
    """The letter that an event of the subject SERVICE.DLQ is, or of another one for dead letters. DecodeError if it is none."""
    try:
        return of_account(json.loads(event.frames[1]), event.frames[2:])
    except (IndexError, ValueError, TypeError, AttributeError) as error:
        raise DecodeError(f"the event {event!r} is no dead letter: {error}; mend its sender") from error


class DeadLetters:
    """The dead letters of a service that the daemon keeps on disk. All methods raise Nak and NoAnswer; `no-store` if it keeps none.

    `subject` is the beginning of letters' subjects, `before` a time in seconds since 1970.
    """

    def __init__(self, ask: Ask, service: str) -> None:
        self._ask = ask
        self.service = service

    def list(
        self, *, reason: Optional[str] = None, subject: Optional[str] = None, before: Optional[float] = None
    ) -> Iterator[DeadLetter]:
        """The letters, oldest first; they are asked for as they are taken."""
        for answer in self._pages("list", _options(reason, subject, before)):
            for each in answer["letters"]:
                yield of_account(each)

    def show(self, letter: Union[int, DeadLetter]) -> Optional[DeadLetter]:
        """One letter, or that of this number, with its frames; None if it isn't there any more."""
        number = letter.number if isinstance(letter, DeadLetter) else letter
        if number is None:
            raise InvalidArgument("a letter that on_dead_letter got has no number; look for it in list()")
        fields = {"token": "dlq", "op": "show", "service": self.service, "from": number, "limit": 1, "seqs": [number]}
        for each in self._ask(fields)["letters"]:
            return of_account(each, [_frame(frame) for frame in each.get("frames") or []])
        return None

    def replay(
        self,
        numbers: Optional[Sequence[int]] = None,
        *,
        reason: Optional[str] = None,
        subject: Optional[str] = None,
        before: Optional[float] = None,
    ) -> Settled:
        """Gives them to the service again: those of these numbers, or all that match. After NoAnswer some may have been; it can be
        called again."""
        return self._settle("replay", numbers, _options(reason, subject, before))

    def purge(
        self,
        numbers: Optional[Sequence[int]] = None,
        *,
        reason: Optional[str] = None,
        subject: Optional[str] = None,
        before: Optional[float] = None,
    ) -> Settled:
        """Deletes them: those of these numbers, or all that match."""
        return self._settle("purge", numbers, _options(reason, subject, before))

    def _settle(self, op: str, numbers: Optional[Sequence[int]], options: Dict[str, Any]) -> Settled:
        if numbers is not None:
            if not numbers:
                return Settled(0)
            options.update({"seqs": list(numbers), "from": min(numbers)})
        count, stopped = 0, None
        for answer in self._pages(op, options):
            count += len(answer["letters"])
            stopped = answer.get("stopped")
            if stopped is not None:
                break
        return Settled(count, stopped)

    def _pages(self, op: str, options: Dict[str, Any]) -> Iterator[Dict[str, Any]]:
        fields = {"token": "dlq", "op": op, "service": self.service, "limit": 1000, **options}
        while True:
            answer: Dict[str, Any] = self._ask(fields)
            yield answer
            if answer["next"] is None:
                return
            # What becomes a letter from now on is not of this list, else a replay would never end.
            fields.setdefault("before", answer["nowMs"])
            fields["from"] = answer["next"]


def _options(reason: Optional[str], subject: Optional[str], before: Optional[float]) -> Dict[str, Any]:
    options = {"reason": reason, "subject": subject, "before": None if before is None else round(before * 1000)}
    return {name: value for name, value in options.items() if value is not None}


def _frame(frame: Union[str, Dict[str, str]]) -> bytes:
    return frame.encode() if isinstance(frame, str) else base64.b64decode(frame["base64"])


__all__ = ["DeadLetter", "DeadLetters", "Settled"]
