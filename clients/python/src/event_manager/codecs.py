"""How bodies are written and read, for `connect(codec=...)` and `Service(codec=...)`.

Bytes are always sent as they are. What else a body may be, and how it is written, is the codec's matter. If it isn't JSON, the
event has the header `content-type`, by which services read it, whatever their own codec is.
"""

from __future__ import annotations

import importlib
from typing import Any, Callable, Dict, Optional, Protocol

from . import _json, _typed
from .errors import DecodeError, InvalidArgument, Missing

#: Looks at a body's plain form (dicts, lists, …), and raises an exception if it isn't valid.
Validate = Callable[[Any], Any]


class Codec(Protocol):
    """What a codec is: anything with these."""

    #: The header `content-type` of what it writes.
    content_type: str

    def encode(self, value: Any) -> bytes:
        """Writes a body that isn't bytes; InvalidArgument if it can't."""
        ...

    def decoder(self, annotation: Any) -> Callable[[bytes], Any]:
        """A function that reads bodies as this type, and raises DecodeError; InvalidArgument if it can't be read as that."""
        ...


class JsonCodec:
    """JSON; text is sent as it is. Dataclasses, enums, and models of pydantic and msgspec are written and read, too."""

    content_type = "application/json"

    def __init__(self, validate: Optional[Validate] = None) -> None:
        self._validate = validate

    def with_schema(self, validate: Validate) -> "JsonCodec":
        """The same, and each body is checked by `validate`, such as `jsonschema.Draft202012Validator(schema).validate`."""
        return JsonCodec(validate)

    def encode(self, value: Any) -> bytes:
        data = _typed.encode(value)
        if self._validate is not None:
            _check_own(self._validate, _json.read, data)
        return data

    def decoder(self, annotation: Any) -> Callable[[bytes], Any]:
        return _checked(self._validate, _typed.plain_json, _typed.decoder(annotation))


class MsgpackCodec:
    """MessagePack, by the package msgpack: faster and smaller than JSON, and with bytes among its values."""

    content_type = "application/msgpack"

    def __init__(self, validate: Optional[Validate] = None) -> None:
        self._validate = validate
        self._package: Optional[Any] = None

    def with_schema(self, validate: Validate) -> "MsgpackCodec":
        """The same, and each body is checked by `validate`."""
        return MsgpackCodec(validate)

    @property
    def _msgpack(self) -> Any:
        if self._package is None:
            try:
                self._package = importlib.import_module("msgpack")
            except ImportError:
                raise Missing("msgpack", "msgpack", "the codec Msgpack") from None
        return self._package

    def encode(self, value: Any) -> bytes:
        packb = self._msgpack.packb
        try:
            data: bytes = packb(value, default=_json.plain_form)
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidArgument(f"the body can't be written as MessagePack: {error}; nothing was sent") from error
        if self._validate is not None:
            _check_own(self._validate, self._load, data)
        return data

    def _load(self, body: bytes) -> Any:
        try:
            return self._msgpack.unpackb(body, strict_map_key=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise DecodeError(f"the body is not MessagePack: {error or type(error).__name__}; mend its sender") from None

    def decoder(self, annotation: Any) -> Callable[[bytes], Any]:
        load = self._load
        if annotation is bytes:
            return _checked(self._validate, load, bytes)
        convert = _typed.converter(annotation)
        return _checked(self._validate, load, lambda body: convert(load(body)))


class RawCodec:
    """Bytes and nothing else."""

    content_type = "application/octet-stream"

    def encode(self, value: Any) -> bytes:
        raise InvalidArgument(f"the codec Raw sends bytes, not {type(value).__name__}; nothing was sent")

    def decoder(self, annotation: Any) -> Callable[[bytes], Any]:
        if annotation not in (bytes, Any, object):
            raise InvalidArgument(f"the codec Raw gives bytes, not {annotation!r}")
        return bytes


class TextCodec:
    """Text in UTF-8."""

    content_type = "text/plain"

    def encode(self, value: Any) -> bytes:
        if not isinstance(value, str):
            raise InvalidArgument(f"the codec Text sends text, not {type(value).__name__}; nothing was sent")
        return value.encode()

    def decoder(self, annotation: Any) -> Callable[[bytes], Any]:
        if annotation not in (str, bytes, Any, object):
            raise InvalidArgument(f"the codec Text gives text, not {annotation!r}")
        return _typed.decoder(bytes if annotation is bytes else str)


JSON = JsonCodec()
Msgpack = MsgpackCodec()
Raw = RawCodec()
Text = TextCodec()

_KNOWN: Dict[str, Codec] = {
    JSON.content_type: JSON,
    Msgpack.content_type: Msgpack,
    "application/x-msgpack": Msgpack,
    "application/vnd.msgpack": Msgpack,
}


def for_content_type(content_type: str, own: Codec) -> Optional[Codec]:
    """The codec that reads what has this header; None if it isn't known, and is tried with a receiver's own."""
    name = content_type.partition(";")[0].strip().lower()
    return own if name == own.content_type else _KNOWN.get(name)


def _check_own(validate: Validate, load: Callable[[bytes], Any], data: bytes) -> None:
    try:
        validate(load(data))
    except Exception as error:
        raise InvalidArgument(f"the body is refused by its schema: {_first_line(error)}; nothing was sent") from error


def _checked(validate: Optional[Validate], load: Callable[[bytes], Any], decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    if validate is None:
        return decode

    def check(body: bytes) -> Any:
        value = load(body)
        try:
            validate(value)
        except Exception as error:
            raise DecodeError(f"the body is refused by its schema: {_first_line(error)}; mend its sender") from error
        return decode(body)

    return check


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__


__all__ = ["JSON", "Codec", "JsonCodec", "Msgpack", "MsgpackCodec", "Raw", "RawCodec", "Text", "TextCodec", "Validate"]
