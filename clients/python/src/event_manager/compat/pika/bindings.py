"""Which subjects a binding means."""

from __future__ import annotations

import itertools
import re
from typing import List, Sequence

from . import exceptions


def patterns_of(routing_key: str, exchange_type: str) -> List[str]:
    """A binding as subscriptions: `#` is no word or more."""
    if exchange_type == "fanout":
        return [""]
    if exchange_type != "topic" or not re.search(r"(^|\.)[*#](\.|$)", routing_key):
        return [f"exact:{routing_key}"]
    words = routing_key.split(".")
    if set(words) == {"#"}:
        return [""]
    hashes = [at for at, word in enumerate(words) if word == "#"]
    if len(hashes) > 3 or "?" in routing_key:
        raise exceptions.ChannelClosedByBroker(540, f"binding {routing_key!r}: at most three # and no ? are possible here")
    found = []
    for kept in itertools.product((False, True), repeat=len(hashes)):
        there = dict(zip(hashes, kept))
        made = ".".join("**" if word == "#" else word for at, word in enumerate(words) if there.get(at, True))
        if made:
            found.append(f"glob:{made}" if "*" in made else f"exact:{made}")
    return found


def matches(routing_key: str, subject: str, exchange_type: str) -> bool:
    """Whether a binding is meant by a subject."""
    if exchange_type == "fanout":
        return True
    if exchange_type != "topic":
        return routing_key == subject

    def match(pattern: Sequence[str], words: Sequence[str]) -> bool:
        if not pattern:
            return not words
        if pattern[0] == "#":
            return any(match(pattern[1:], words[at:]) for at in range(len(words) + 1))
        return bool(words) and pattern[0] in ("*", words[0]) and match(pattern[1:], words[1:])

    return match(routing_key.split("."), subject.split("."))
