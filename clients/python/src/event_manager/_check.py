"""Arguments, before something is done with them: InvalidArgument if they can't be used."""

from __future__ import annotations

from typing import Any, Callable

from .errors import InvalidArgument


def text(value: Any, what: str, most: int, least: int = 1) -> bytes:
    """A text in UTF-8, of so many bytes, without NUL."""
    if not isinstance(value, str):
        raise InvalidArgument(f"{what} is text, not {type(value).__name__}: {str(value)[:80]!r}; nothing was sent")
    try:
        data = value.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"{what} can't be written in UTF-8: {error}; nothing was sent") from None
    if not least <= len(data) <= most or b"\0" in data:
        raise InvalidArgument(f"{what} has {least} to {most} bytes and no NUL: {value[:80]!r}; nothing was sent")
    return data


def number(value: Any, what: str, least: float, most: float, unit: str = "") -> None:
    """A number in these bounds; no bool, no NaN."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise InvalidArgument(f"{what} is a number from {least:g} to {most:g}{unit}, not {value!r}; nothing was sent")


def whole(value: Any, what: str, least: int, most: int) -> None:
    """A whole number in these bounds."""
    if type(value) is not int or not least <= value <= most:
        raise InvalidArgument(f"{what} is a whole number from {least} to {most}, not {value!r}; nothing was sent")


def seconds(value: Any, what: str = "timeout") -> float:
    """How long to wait: any number but NaN; infinity is for ever."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        raise InvalidArgument(f"{what} is a number of seconds, not {value!r}; nothing was sent")
    wait: float = value
    return wait


def has(value: Any, what: str, *names: str) -> None:
    """An object with these methods."""
    if not all(callable(getattr(value, name, None)) for name in names):
        raise InvalidArgument(f"{what} has the methods {' and '.join(names)}; {value!r} has not; nothing was sent")


def function(value: Any, what: str) -> Callable[..., Any]:
    """Something that can be called."""
    if not callable(value):
        raise InvalidArgument(f"{what} is a function, not {value!r}")
    return value  # type: ignore[no-any-return]
