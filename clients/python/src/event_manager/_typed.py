"""Bodies and headers: from values to bytes, and back to the types that are asked for."""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import types
import typing
from typing import Any, Callable, Dict, List, Mapping, Optional, Union

from .errors import DecodeError, InvalidArgument

_PLAIN: Dict[Any, Any] = {dict: dict, list: list, int: int, float: (int, float), bool: bool, str: str}
_UNIONS = [Union, getattr(types, "UnionType", Union)]


def encode(body: Any) -> bytes:
    """Bytes as they are, text as UTF-8, everything else (also dataclasses) as JSON."""
    if isinstance(body, bytes):
        return body
    if isinstance(body, str):
        return body.encode()
    if isinstance(body, (bytearray, memoryview)):
        return bytes(body)
    try:
        return json.dumps(body, default=_default, ensure_ascii=False, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"the body can't be written as JSON: {error}; nothing was sent") from error


def _default(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def encode_headers(headers: Mapping[str, str]) -> bytes:
    """The frame with an event's headers."""
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise InvalidArgument(f"headers are text, not {name!r}: {value!r}; nothing was sent")
    return json.dumps(dict(headers), ensure_ascii=False, separators=(",", ":")).encode()


def decode_headers(frame: bytes) -> Dict[str, str]:
    """The headers in an event's third frame; none if it is no JSON object of text."""
    try:
        found = json.loads(frame)
    except ValueError:
        return {}
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        return {}
    return found


def decoder(annotation: Any) -> Callable[[bytes], Any]:
    """A function that reads a body as this type; it raises DecodeError.

    `bytes` and `str` are the body itself. Everything else is JSON: dataclasses, enums, `dict`, `list`, numbers, `bool`,
    None, with parameters, `Optional`, `Union` and `Literal`, or `Any`. InvalidArgument for other types.
    """
    if annotation is bytes:
        return bytes
    if annotation is str:
        return _text
    convert = _converter(annotation)

    def decode(body: bytes) -> Any:
        try:
            value = json.loads(body)
        except ValueError as error:
            raise DecodeError(f"the body is not JSON: {error}") from None
        return convert(value, "body")

    return decode


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise DecodeError(f"the body is not UTF-8: {error}") from None


def _wrong(where: str, wanted: str, value: Any) -> DecodeError:
    return DecodeError(f"{where} should be {wanted}, and is {json.dumps(value)[:100]}")


@functools.lru_cache(maxsize=1024)
def _converter(annotation: Any) -> Callable[[Any, str], Any]:
    if annotation is Any or annotation is object:
        return lambda value, where: value
    if annotation is None or annotation is type(None):
        return functools.partial(_one_of, (None,))
    if annotation in _PLAIN:
        return functools.partial(_plain, annotation)
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return _dataclass(annotation)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return functools.partial(_enum, annotation)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return functools.partial(_one_of, arguments)
    if origin in _UNIONS:
        return functools.partial(_union, [_converter(each) for each in arguments])
    if origin is list and len(arguments) == 1:
        return functools.partial(_list, _converter(arguments[0]))
    if origin is dict and len(arguments) == 2 and arguments[0] is str:
        return functools.partial(_dict, _converter(arguments[1]))
    raise InvalidArgument(f"bodies can't be read as {annotation!r}; use bytes, str, dict, list or a dataclass")


def _plain(wanted: Any, value: Any, where: str) -> Any:
    if not isinstance(value, _PLAIN[wanted]) or (isinstance(value, bool) and wanted is not bool):
        raise _wrong(where, f"of type {wanted.__name__}", value)
    return float(value) if wanted is float else value


def _one_of(allowed: Any, value: Any, where: str) -> Any:
    for each in allowed:
        if value == each and type(value) is type(each):
            return each
    raise _wrong(where, " or ".join(map(repr, allowed)), value)


def _enum(wanted: Any, value: Any, where: str) -> Any:
    try:
        return wanted(value)
    except ValueError:
        raise _wrong(where, f"a {wanted.__name__}", value) from None


def _union(converters: List[Callable[[Any, str], Any]], value: Any, where: str) -> Any:
    failures = []
    for convert in converters:
        try:
            return convert(value, where)
        except DecodeError as error:
            failures.append(str(error))
    raise DecodeError("; or ".join(failures))


def _list(convert: Callable[[Any, str], Any], value: Any, where: str) -> Any:
    return [convert(each, f"{where}[{at}]") for at, each in enumerate(_plain(list, value, where))]


def _dict(convert: Callable[[Any, str], Any], value: Any, where: str) -> Any:
    return {name: convert(each, f"{where}.{name}") for name, each in _plain(dict, value, where).items()}


def _dataclass(wanted: Any) -> Callable[[Any, str], Any]:
    fields: Optional[Dict[str, Callable[[Any, str], Any]]] = None
    required: List[str] = []

    def convert(value: Any, where: str) -> Any:
        nonlocal fields
        if fields is None:  # Only now, because a class may have fields of its own type.
            hints = typing.get_type_hints(wanted)
            of_class = [field for field in dataclasses.fields(wanted) if field.init]
            missing = dataclasses.MISSING
            required.extend(each.name for each in of_class if each.default is missing and each.default_factory is missing)
            fields = {field.name: _converter(hints[field.name]) for field in of_class}
        if not isinstance(value, dict):
            raise _wrong(where, f"an object ({wanted.__name__})", value)
        # Fields that the class doesn't know are from a newer sender.
        made = {name: fields[name](each, f"{where}.{name}") for name, each in value.items() if name in fields}
        for name in required:
            if name not in made:
                raise DecodeError(f"{where}.{name} is missing ({wanted.__name__})")
        try:
            return wanted(**made)
        except (TypeError, ValueError) as error:
            raise DecodeError(f"{where}: {wanted.__name__} refuses it: {error}") from error

    return convert
