"""Which subjects a pattern matches, as the daemon does."""

from __future__ import annotations

import re
from typing import Callable, Literal

from . import _check
from .errors import InvalidArgument

Dialect = Literal["glob", "exact", "prefix"]


def subscription(pattern: str, dialect: Dialect) -> str:
    """The pattern as SUBSCRIBE wants it; InvalidArgument if it can't be one."""
    if dialect not in ("glob", "exact", "prefix"):
        raise InvalidArgument(f"the dialect is 'glob', 'exact' or 'prefix', not {dialect!r}")
    _check.text(pattern, "a pattern", 1024, 0 if dialect == "prefix" else 1)
    if dialect == "glob" and pattern.count("*") > 16:
        raise InvalidArgument(f"a glob has at most 16 stars: {pattern[:80]!r}")
    if dialect == "prefix" and not pattern:
        return ""
    return f"{dialect}:{pattern}"


def matcher(pattern: str, dialect: Dialect) -> Callable[[str], object]:
    """A function that tells whether a subject matches."""
    if dialect == "exact":
        return pattern.__eq__
    if dialect == "prefix":
        return lambda subject: subject.startswith(pattern)
    parts = {"**": ".*", "*": "[^.]*", "?": "[^.]"}
    regex = "".join(parts.get(each) or re.escape(each) for each in re.split(r"(\*\*|\*|\?)", pattern))
    return re.compile(regex, re.DOTALL).fullmatch
