"""Bodies as types, and patterns of subjects."""

import dataclasses
import enum
import json
import random
from typing import Any, Dict, List, Literal, Optional, Union

import pytest

import event_manager as em
from event_manager import _json, _patterns, _typed
from event_manager._ask import ask


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Line:
    sku: str
    count: int = 1


@dataclasses.dataclass
class Order:
    id: int
    lines: List[Line]
    colour: Optional[Colour] = None
    prices: Dict[str, float] = dataclasses.field(default_factory=dict)
    parent: Optional["Order"] = None


def test_dataclasses_survive():
    order = Order(1, [Line("a"), Line("b", 2)], Colour.RED, {"x": 1.5}, Order(2, []))
    assert _typed.decoder(Order)(_typed.encode(order)) == order


@dataclasses.dataclass
class Odd:
    größe: int


@dataclasses.dataclass
class Nothing:
    pass


class Number(int):
    pass


class Level(enum.IntEnum):
    HIGH = 3


@pytest.mark.parametrize(
    "value",
    [
        None, True, 5, Number(5), Level.HIGH, 1.5, 1e300, float("inf"), {"a": [1, (2, 3)], "ä": "\u2028\"\\\n"}, [], {},
        Line('quote " and {brace} %s', 2), [Line("a")], {"line": Line("b")}, Odd(1), Nothing(), Order(1, [Line("a")], Colour.RED),
    ],
    ids=str,
)
def test_json_is_that_of_the_standard_library(value):
    def plain(each):
        if isinstance(each, enum.Enum):
            return each.value
        return {field.name: getattr(each, field.name) for field in dataclasses.fields(each)}

    written = _typed.encode(value)
    assert written == json.dumps(value, default=plain, ensure_ascii=False, separators=(",", ":")).encode()
    assert json.loads(written) == _json.read(b" \n" + written + b"\r\n ") == _json.read(written)


def test_what_json_cannot_say():
    circle = []
    circle.append(circle)
    line = Line("a")
    line.count = line
    for value in (circle, line, {1, 2}, object(), {"a": object()}, {(1, 2): 3}, "\ud800", ["\ud800"], Line.__new__(Line)):
        with pytest.raises(em.InvalidArgument, match="nothing was sent"):
            _typed.encode(value)
    for body in (b"", b" ", b"1 2", b"{", b"nul", b"\xff", b"[" * 100_000):
        with pytest.raises(em.DecodeError):
            _typed.decoder(dict)(body)


@pytest.mark.parametrize(
    "annotation, body, value",
    [
        (dict, b'{"a": 1}', {"a": 1}),
        (list, b"[1]", [1]),
        (int, b"1", 1),
        (float, b"1", 1.0),
        (bool, b"true", True),
        (None, b"null", None),
        (Any, b'[{"a": null}]', [{"a": None}]),
        (str, b"{", "{"),
        (bytes, b"\xff", b"\xff"),
        (Union[int, str], b'"a"', "a"),
        (Literal["a", 2], b"2", 2),
        (List[Dict[str, int]], b'[{"a": 1}]', [{"a": 1}]),
        (Line, b'{"sku": "a", "newer": 1}', Line("a")),
    ],
)
def test_what_can_be_read(annotation, body, value):
    assert _typed.decoder(annotation)(body) == value


@pytest.mark.parametrize(
    "annotation, body, why",
    [
        (dict, b"[]", "body should be of type dict, and is"),
        (int, b"true", "of type int"),
        (int, b"1.5", "of type int"),
        (float, b'"1"', "of type float"),
        (Literal[1], b"true", "should be 1"),
        (Colour, b'"blue"', "a Colour"),
        (List[int], b'[1, "a"]', r"body\[1\] should be of type int"),
        (Order, b'{"id": 1, "lines": [{"sku": 5}]}', r"body.lines\[0\].sku should be"),
        (Order, b'{"id": 1}', "body lacks lines"),
        (Optional[int], b'"a"', "of type int.*; or"),
        (dict, b"{", "not JSON"),
        (dict, b"\xff\xfe", "not JSON"),
        (str, b"\xff", "not UTF-8"),
        (Line, b"1", "an object"),
    ],
)
def test_what_can_not_be_read(annotation, body, why):
    with pytest.raises(em.DecodeError, match=why):
        _typed.decoder(annotation)(body)


def test_headers_that_are_none_are_no_error():
    for frame in (b"", b"{", b"[]", b'{"a": 1}', b"\xff"):
        assert _typed.decode_headers(frame) == {}


def test_patterns_match_as_the_daemon_does(hub):
    """Random patterns and subjects: the daemon delivers what our matcher matches."""
    rng = random.Random(7)
    words = ["a", "b", "ab", "ü", ""]
    with em.connect(hub.address, timeout=30) as connected:
        both = [0, 0]
        for number in range(25):
            pattern = ".".join(rng.choice([*words, "*", "**", "?", "a*", "*b", "[a]"]) for _ in range(rng.randrange(1, 4))) or "x"
            dialect = rng.choice(["glob", "glob", "glob", "exact", "prefix"])
            service = f"S{number}"
            ask(hub.address, {"token": "subscribe", "id": service, "service": service, "subjects": [_patterns.subscription(pattern, dialect)]}, 30)
            matches = _patterns.matcher(pattern, dialect)
            for _ in range(20):
                subject = ".".join(rng.choice(words) for _ in range(rng.randrange(1, 4))) or "y"
                got = connected.emit(subject).services == 1
                assert got == bool(matches(subject)), (pattern, dialect, subject)
                both[got] += 1
            ask(hub.address, {"token": "unsubscribe", "id": service}, 30)
    assert min(both) > 20, both
