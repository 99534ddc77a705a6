"""JSON of single bodies: what `json.dumps` and `json.loads` do, with less work around it for each."""

from __future__ import annotations

import enum
import importlib
import json
import json.encoder
from typing import Any, Callable, Dict, List


def plain_form(value: Any) -> Any:
    """A value as dicts, lists and the like, one level of it; TypeError if it has no such form."""
    if hasattr(type(value), "__dataclass_fields__"):
        return {name: getattr(value, name) for name in _fields(type(value))}
    if isinstance(value, enum.Enum):
        return value.value
    if hasattr(value, "model_dump"):  # pydantic
        return value.model_dump(mode="json")
    if hasattr(value, "__struct_fields__"):
        msgspec = importlib.import_module("msgspec")
        return msgspec.to_builtins(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _fields(kind: Any) -> List[str]:
    """The names of a dataclass's fields."""
    import dataclasses  # Only now: it takes as long as all of this package.

    return [field.name for field in dataclasses.fields(kind)]


def read(body: bytes) -> Any:
    """The value of a body that is JSON; ValueError or RecursionError if it is none."""
    text = body.decode()
    try:
        value, end = _scan(text, 0)
    except StopIteration:  # There may be white space before it.
        return json.loads(text)
    return value if end == len(text) else json.loads(text)


_scan: Callable[[str, int], Any] = getattr(json.JSONDecoder(), "scan_once")
_quote: Callable[[str], str] = json.encoder.encode_basestring
_by_json: Callable[[Any], str] = json.JSONEncoder(
    default=plain_form, ensure_ascii=False, separators=(",", ":"), check_circular=False
).encode


def _make_whole() -> Callable[[Any], str]:
    """The encoder in C if there is one: `JSONEncoder` makes a new one for each value."""
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return _by_json
    chunks = make(None, plain_form, _quote, None, ":", ",", False, False, True)
    join = "".join
    return lambda value: join(chunks(value, 0))


_whole = _make_whole()


def _float(value: float) -> str:
    return repr(value) if value - value == 0 else _by_json(value)


#: How the value `v` is written if it is what a field of one of these types should have, without looking its writer up.
_AT_ONCE = {
    "str": "quote(v) if type(v) is str",
    "int": "v if type(v) is int",
    "float": "repr(v) if type(v) is float and v - v == 0",
    "bool": '"true" if v is True else "false" if v is False',
}


def _of_dataclass(kind: Any) -> Callable[[Any], str]:
    """A function made for the class, as `dataclasses` makes `__init__`: a loop over the fields takes half as long again."""
    names = _fields(kind)
    if not names or not all(name.isascii() and name.isidentifier() for name in names):
        return lambda value: _whole(plain_form(value))
    fields: List[str] = []
    for name in names:
        # The annotation is only the best guess.
        hint = getattr(kind.__dataclass_fields__[name].type, "__name__", kind.__dataclass_fields__[name].type)
        written = "writers[type(v)](v)"
        if hint in _AT_ONCE:
            written = f"{_AT_ONCE[hint]} else {written}"
        fields.append(f"    v = value.{name}\n    f{len(fields)} = {written}\n")
    whole = ",".join(f'"{name}":{{f{number}}}' for number, name in enumerate(names))
    made: Dict[str, Any] = {"writers": writers, "quote": _quote}
    exec(f"def write(value):\n{''.join(fields)}    return f'{{{{{whole}}}}}'", made)
    function: Callable[[Any], str] = made["write"]
    return function


class _Writers(Dict[Any, Callable[[Any], str]]):
    """How values of a type are written, found once for each type."""

    def __missing__(self, kind: Any) -> Callable[[Any], str]:
        own = hasattr(kind, "__dataclass_fields__") and not issubclass(kind, (str, int, float, dict, list, tuple))
        writer = _of_dataclass(kind) if own else _whole
        if len(self) < 1024:
            self[kind] = writer
        return writer


#: How to write a value of a type as JSON: TypeError or ValueError if it has no such form, RecursionError if it contains itself.
writers = _Writers(
    {str: _quote, int: int.__repr__, float: _float, bool: lambda value: "true" if value else "false", type(None): lambda _: "null"}
)
