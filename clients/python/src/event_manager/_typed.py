"""Bodies and headers: from values to bytes, and back to the types that are asked for."""

from __future__ import annotations

import enum
import functools
import importlib
import json
import types
import typing
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple, Type, Union

from . import _json
from .errors import DecodeError, InvalidArgument

_PLAIN = (dict, list, int, float, bool, str, bytes)
_UNIONS = [Union, getattr(types, "UnionType", Union)]


class _Writers(Dict[Any, Optional[Callable[[Any], str]]]):
    """How bodies of a type are written as text, found once for each type; None: they are bytes."""

    def __missing__(self, kind: Any) -> Optional[Callable[[Any], str]]:
        if issubclass(kind, (bytes, bytearray, memoryview)):
            writer = None
        else:
            writer = _as_it_is if issubclass(kind, str) else _json.writers[kind]
        if len(self) < 1024:
            self[kind] = writer
        return writer


def _as_it_is(text: str) -> str:
    return text


_writers = _Writers()


def encode(body: Any) -> bytes:
    """Bytes as they are, text as UTF-8, everything else (also dataclasses) as JSON."""
    writer = _writers[type(body)]
    if writer is None:
        return bytes(body)
    try:
        return writer(body).encode()
    except RecursionError as error:
        raise InvalidArgument("the body can't be written as JSON: it contains itself, or is nested too deeply; nothing was sent") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise InvalidArgument(f"the body can't be written as JSON: {error}; nothing was sent") from error


def check_headers(headers: object) -> None:
    if not isinstance(headers, Mapping):
        raise InvalidArgument(f"headers are a mapping of names to text, not {headers!r:.80}; nothing was sent")


def encode_headers(headers: Mapping[str, str]) -> bytes:
    """The frame with an event's headers."""
    check_headers(headers)
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise InvalidArgument(f"headers are text, not {name!r}: {value!r}; nothing was sent")
    try:
        return json.dumps(dict(headers), ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"headers can't be written in UTF-8: {error}; nothing was sent") from None


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
    whole = _model(annotation)
    if whole is not None:
        return whole
    convert = _converter(annotation)
    read = _json.read

    def decode(body: bytes) -> Any:
        try:
            return convert(read(body))
        except _Wrong as error:
            raise DecodeError(f"body{error.path} {error.sentence}; mend its sender") from None
        except (ValueError, RecursionError) as error:
            raise DecodeError(f"the body is not JSON: {error}; mend its sender") from None

    return decode


def plain_json(body: bytes) -> Any:
    """The plain form of JSON; DecodeError if it is none."""
    try:
        return _json.read(body)
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"the body is not JSON: {error}; mend its sender") from None


def converter(annotation: Any) -> Callable[[Any], Any]:
    """A function that makes this type of plain values, and raises DecodeError; InvalidArgument if there is no such function."""
    convert = _converter(annotation)

    def checked(value: Any) -> Any:
        try:
            return convert(value)
        except _Wrong as error:
            raise DecodeError(f"body{error.path} {error.sentence}; mend its sender") from None

    return checked


def _model(annotation: Any) -> Optional[Callable[[bytes], Any]]:
    """How pydantic or msgspec read JSON, if it is one of their types."""
    if not isinstance(annotation, type):
        return None
    read: Callable[[bytes], Any]
    wrong: Tuple[Type[Exception], ...]
    if hasattr(annotation, "model_validate_json"):
        read, wrong = annotation.model_validate_json, (ValueError,)
    elif hasattr(annotation, "__struct_fields__"):
        msgspec = importlib.import_module("msgspec")
        read, wrong = msgspec.json.Decoder(annotation).decode, (msgspec.MsgspecError, UnicodeDecodeError)
    else:
        return None

    def decode(body: bytes) -> Any:
        try:
            return read(body)
        except wrong as error:
            sentence = " ".join(str(error).split())[:200]
            raise DecodeError(f"the body is no {annotation.__name__}: {sentence}; mend its sender") from None

    return decode


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise DecodeError(f"the body is not UTF-8: {error}; mend its sender") from None


class _Wrong(Exception):
    """A value isn't of its type. Its path is put together on the way out, because most values are right."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.path = ""


def _unlike(wanted: str, value: Any) -> _Wrong:
    return _Wrong(f"should be {wanted}, and is {json.dumps(value, default=repr)[:100]}")


@functools.lru_cache(maxsize=1024)
def _converter(annotation: Any) -> Callable[[Any], Any]:
    if annotation is Any or annotation is object:
        return lambda value: value
    if annotation is None or annotation is type(None):
        return functools.partial(_one_of, (None,))
    if annotation in _PLAIN:
        return functools.partial(_plain, annotation)
    if isinstance(annotation, type) and hasattr(annotation, "__dataclass_fields__"):
        return _dataclass(annotation)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return functools.partial(_enum, annotation)
    if isinstance(annotation, type) and hasattr(annotation, "model_validate"):
        return functools.partial(_by_model, annotation.model_validate, annotation)
    if isinstance(annotation, type) and hasattr(annotation, "__struct_fields__"):
        msgspec = importlib.import_module("msgspec")
        return functools.partial(_by_model, lambda value: msgspec.convert(value, annotation), annotation)
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


def _plain(wanted: Any, value: Any) -> Any:
    if type(value) is wanted:
        return value
    if wanted is float and type(value) is int:
        return float(value)
    raise _unlike(f"of type {wanted.__name__}", value)


def _one_of(allowed: Any, value: Any) -> Any:
    for each in allowed:
        if value == each and type(value) is type(each):
            return each
    raise _unlike(" or ".join(map(repr, allowed)), value)


def _enum(wanted: Any, value: Any) -> Any:
    try:
        return wanted(value)
    except ValueError:
        raise _unlike(f"a {wanted.__name__}", value) from None


def _by_model(read: Callable[[Any], Any], wanted: Any, value: Any) -> Any:
    try:
        return read(value)
    except Exception as error:
        raise _Wrong(f"is no {wanted.__name__}: {' '.join(str(error).split())[:200]}") from None


def _union(converters: List[Callable[[Any], Any]], value: Any) -> Any:
    failures = []
    for convert in converters:
        try:
            return convert(value)
        except _Wrong as error:
            failures.append(f"{error.path} {error.sentence}".strip())
    raise _Wrong("; or ".join(failures))


def _list(convert: Callable[[Any], Any], value: Any) -> Any:
    made: List[Any] = []
    try:
        for each in _plain(list, value):
            made.append(convert(each))
    except _Wrong as error:
        if type(value) is list:
            error.path = f"[{len(made)}]{error.path}"
        raise
    return made


def _dict(convert: Callable[[Any], Any], value: Any) -> Any:
    return _items(lambda _: convert, _plain(dict, value))


def _items(converter_of: Callable[[str], Optional[Callable[[Any], Any]]], value: Dict[str, Any]) -> Dict[str, Any]:
    made = {}
    name = ""
    try:
        for name, each in value.items():
            convert = converter_of(name)
            # Fields that a class doesn't know are from a newer sender.
            if convert is not None:
                made[name] = convert(each)
    except _Wrong as error:
        error.path = f".{name}{error.path}"
        raise
    return made


def _dataclass(wanted: Any) -> Callable[[Any], Any]:
    fields: Dict[str, Callable[[Any], Any]] = {}
    required: List[str] = []

    def look() -> Callable[[Any], Any]:
        import dataclasses

        hints = typing.get_type_hints(wanted)
        missing = dataclasses.MISSING
        for field in dataclasses.fields(wanted):
            if field.init:
                fields[field.name] = _converter(hints[field.name])
                if field.default is missing and field.default_factory is missing and field.name not in required:
                    required.append(field.name)
        kinds = {name: hints[name] for name in fields}
        plain = all(kind in _PLAIN and name.isascii() for name, kind in kinds.items())
        return _at_once(wanted, kinds, slowly) if plain and kinds else slowly

    def slowly(value: Any) -> Any:
        if type(value) is not dict:
            raise _unlike(f"an object ({wanted.__name__})", value)
        made = _items(fields.get, value)
        for name in required:
            if name not in made:
                raise _Wrong(f"lacks {name} ({wanted.__name__})")
        try:
            return wanted(**made)
        except (TypeError, ValueError) as error:
            raise _refused(wanted, error) from error

    found: List[Callable[[Any], Any]] = []

    def convert(value: Any) -> Any:
        if not found:  # Only now, because a class may have fields of its own type.
            found.append(look())
        return found[0](value)

    return convert


def _refused(wanted: Any, error: Exception) -> _Wrong:
    return _Wrong(f"is refused by {wanted.__name__}: {error}")


def _at_once(wanted: Any, kinds: Dict[str, Any], slowly: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A function made for a class whose fields are all plain: if all are there as they should be, that needs no loop over them, which
    takes twice as long; everything else is for `slowly`."""
    numbered = [(f"f{number}", name) for number, name in enumerate(kinds)]
    made: Dict[str, Any] = {"wanted": wanted, "slowly": slowly, "refused": _refused, **{f"k{at}": kind for at, kind in enumerate(kinds.values())}}
    exec(
        "def convert(value):\n"
        "    try:\n"
        + "".join(f"        {local} = value[{name!r}]\n" for local, name in numbered)
        + "    except (KeyError, TypeError, IndexError):\n"
        "        return slowly(value)\n"
        f"    if not ({' and '.join(f'type({local}) is k{local[1:]}' for local, _ in numbered)} and type(value) is dict):\n"
        "        return slowly(value)\n"
        "    try:\n"
        f"        return wanted({', '.join(f'{name}={local}' for local, name in numbered)})\n"
        "    except (TypeError, ValueError) as error:\n"
        "        raise refused(wanted, error) from error\n",
        made,
    )
    function: Callable[[Any], Any] = made["convert"]
    return function
