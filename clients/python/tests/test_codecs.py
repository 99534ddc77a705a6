"""Codecs, schemas and compression, between real hubs and services."""

import dataclasses
import enum
import random
import subprocess
import sys
import zlib
from typing import Any, List, Optional

import pytest

import event_manager as em
from event_manager import _compression, codecs

PATIENCE = 30.0


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Order:
    id: int
    colour: Optional[Colour] = None


@dataclasses.dataclass
class Picture:
    pixels: bytes
    sizes: List[int]


def at_work(hub, daemon, *registrations, **options):
    """A service that keeps what its handlers get."""
    service, came = em.Service("Billing", retry=em.Retry(initial=0.01), **options), []
    for pattern, annotation in registrations:

        def handle(body, event: em.Event):
            came.append((body, event.headers, len(event.frames)))

        handle.__annotations__["body"] = annotation
        service.on(pattern)(handle)
    service.start(hub)

    def result():
        hub.flush()
        daemon.wait_idle()
        return came

    return result


def letters(hub):
    return [each["detail"] for each in hub._alive().requests.ask({"token": "dlq", "op": "list", "service": "Billing"}, PATIENCE).result()["letters"]]


def test_without_options_nothing_changes_on_the_wire(hub):
    with em.connect(hub.address, timeout=PATIENCE) as connected, connected.subscribe("") as events:
        connected.publish("a", {"a": 1})
        connected.publish("a", bytes(100_000))
        assert [each.frames for each in (events.next(PATIENCE), events.next(PATIENCE))] == [[b"a", b'{"a":1}'], [b"a", bytes(100_000)]]


def test_msgpack_is_read_by_services_whose_own_codec_is_another(hub):
    pytest.importorskip("msgpack")
    with em.connect(hub.address, timeout=PATIENCE, codec=codecs.Msgpack) as connected:
        result = at_work(connected, hub, ("order", Order), ("picture", Picture), ("raw", bytes), ("any", Any))
        connected.publish("order", Order(7, Colour.RED))
        connected.emit("picture", Picture(b"\xff\0", [1, 2]), level="memory")
        connected.publish("raw", b"as it is")
        connected.publish("any", "text", headers={"x-a": "b"})
        header = {"content-type": "application/msgpack"}
        assert sorted(result(), key=repr) == sorted(
            [
                (Order(7, Colour.RED), header, 3),
                (Picture(b"\xff\0", [1, 2]), header, 3),
                (b"as it is", {}, 2),
                ("text", {**header, "x-a": "b"}, 3),
            ],
            key=repr,
        )
        connected.publish("order", b"\xc1", headers=header)
        connected.publish("order", ["no", "order"])
        result()
        assert [["not MessagePack" in each, "an object (Order)" in each] for each in letters(connected)] == [[True, False], [False, True]]
        with pytest.raises(em.InvalidArgument, match="MessagePack.*nothing was sent"):
            connected.publish("order", object())


def test_a_codec_of_ones_own(hub):
    class Reversed:
        content_type = "application/x-reversed"

        def encode(self, value):
            return value.encode()[::-1]

        def decoder(self, annotation):
            return lambda body: body[::-1].decode()

    with em.connect(hub.address, timeout=PATIENCE, codec=Reversed()) as connected:
        result = at_work(connected, hub, ("a", str), codec=Reversed())
        connected.publish("a", "abc")
        connected.publish("a", b"cba", headers={"content-type": "application/x-unknown; q=1"})
        connected.publish("a", b'"abc"', headers={"content-type": "application/json; charset=utf-8"})
        assert [body for body, _, _ in result()] == ["abc", "abc", '"abc"']


def test_a_schema_refuses_at_both_ends(hub):
    def positive(value):
        if value["id"] < 1:
            raise ValueError("id is not positive\nmore of it")

    checked = codecs.JSON.with_schema(positive)
    with em.connect(hub.address, timeout=PATIENCE, codec=checked) as connected:
        result = at_work(connected, hub, ("a", Order), ("raw", bytes), codec=checked)
        connected.publish("a", Order(1))
        with pytest.raises(em.InvalidArgument, match="refused by its schema: id is not positive; nothing was sent"):
            connected.publish("a", Order(0))
        with pytest.raises(em.InvalidArgument, match="schema"):
            connected.emit("a", {"no": "id"})
        connected.publish("a", b'{"id":0}')  # Bytes are as they are.
        assert result() == [(Order(1), {}, 2)]
        [detail] = letters(connected)
        assert "DecodeError: the body is refused by its schema: id is not positive" in detail


def test_jsonschema():
    jsonschema = pytest.importorskip("jsonschema")
    schema = {"type": "object", "required": ["id"]}
    for codec in (codecs.JSON, codecs.Msgpack):
        if codec is codecs.Msgpack:
            pytest.importorskip("msgpack")
        checked = codec.with_schema(jsonschema.Draft202012Validator(schema).validate)
        assert checked.decoder(Order)(checked.encode(Order(1))) == Order(1)
        with pytest.raises(em.DecodeError, match="'id' is a required property"):
            checked.decoder(dict)(codec.encode({}))
        with pytest.raises(em.DecodeError, match="required"):
            checked.decoder(bytes)(codec.encode({}))


def test_raw_and_text():
    assert codecs.Text.decoder(str)(codecs.Text.encode("ü")) == "ü"
    assert codecs.Raw.decoder(bytes)(b"\xff") == b"\xff"
    for wrong in (lambda: codecs.Text.encode(1), lambda: codecs.Raw.encode("a"), lambda: codecs.Text.decoder(int), lambda: codecs.Raw.decoder(str)):
        with pytest.raises(em.InvalidArgument):
            wrong()
    with pytest.raises(em.DecodeError):
        codecs.Text.decoder(str)(b"\xff")


def test_models_of_pydantic():
    pydantic = pytest.importorskip("pydantic")

    class Item(pydantic.BaseModel):
        sku: str
        count: int = 1

    decode = codecs.JSON.decoder(Item)
    assert decode(codecs.JSON.encode(Item(sku="a", count=2))) == Item(sku="a", count=2)
    assert codecs.JSON.decoder(List[Item])(b'[{"sku": "a"}]') == [Item(sku="a")]
    for body in (b"{", b"{}", b"\xff", b"[" * 100_000):
        with pytest.raises(em.DecodeError, match="no Item"):
            decode(body)
    with pytest.raises(em.DecodeError, match=r"body\[0\] is no Item"):
        codecs.JSON.decoder(List[Item])(b"[{}]")


def test_structs_of_msgspec():
    msgspec = pytest.importorskip("msgspec")
    Item = msgspec.defstruct("Item", [("sku", str), ("count", int, 1)])
    decode = codecs.JSON.decoder(Item)
    assert decode(codecs.JSON.encode(Item("a", 2))) == Item("a", 2)
    assert codecs.JSON.decoder(List[Item])(b'[{"sku": "a"}]') == [Item("a")]
    for body in (b"{", b"{}", b"\xff"):
        with pytest.raises(em.DecodeError, match="no Item"):
            decode(body)


def test_json_that_is_too_deep_is_undecodable():
    for annotation in (dict, Order, Any):
        with pytest.raises(em.DecodeError, match="not JSON"):
            codecs.JSON.decoder(annotation)(b"[" * 200_000)


@pytest.mark.parametrize("compression", ["deflate", "zstd"])
def test_compression_is_for_long_bodies_and_invisible_to_receivers(hub, compression):
    if compression == "zstd" and sys.version_info < (3, 14):
        pytest.importorskip("zstandard")
    noise = random.Random(1).randbytes(5000)
    with em.connect(hub.address, timeout=PATIENCE, compress_above=1000, compression=compression) as connected:
        result = at_work(connected, hub, ("text", str), ("raw", bytes), ("list", List[int]))
        with connected.subscribe("") as events:
            connected.publish("text", "ü" * 5000, headers={"x-a": "b"})
            connected.publish("raw", noise)  # It does not become smaller.
            connected.publish("raw", bytes(1000))
            connected.emit("list", [1] * 1000)
            came = [events.next(PATIENCE) for _ in range(4)]
        assert [each.raw for each in came] == [each.body for each in came]
        assert sorted(map(len, (each.body for each in came))) == sorted([10_000, 5000, 1000, 2001])
        assert max(len(each.frames[1]) for each in came) == 5000
        header = {"content-encoding": compression}
        assert sorted(result(), key=repr) == sorted(
            [("ü" * 5000, {**header, "x-a": "b"}, 3), (noise, {}, 2), (bytes(1000), {}, 2), ([1] * 1000, header, 3)], key=repr
        )


def test_what_can_not_be_decompressed(hub):
    bodies = {b"nonsense": "can't be decompressed", zlib.compress(b"a" * 100)[:-1]: "cut off", zlib.compress(b"a") + b"b": "behind its end"}
    with em.connect(hub.address, timeout=PATIENCE) as connected, connected.subscribe("a") as events:
        at_work(connected, hub, ("a", bytes))
        for body, why in bodies.items():
            connected.publish("a", body, headers={"content-encoding": "deflate"})
            with pytest.raises(em.DecodeError, match=why):
                events.next(PATIENCE).body
        connected.publish("a", b"x", headers={"content-encoding": "lzma"})
        with pytest.raises(em.DecodeError, match="isn't known"):
            events.next(PATIENCE).raw
        hub.wait_idle()
        assert len(letters(connected)) == 4


@pytest.mark.parametrize("compression", ["deflate", "zstd"])
def test_bombs_are_refused_without_their_bytes(compression):
    if compression == "zstd" and sys.version_info < (3, 14):
        pytest.importorskip("zstandard")
    whole = b"ab" * 50_000
    packed = _compression.compressor(compression)(whole)
    assert _compression.decompress(compression, packed, 100_000) == whole
    with pytest.raises(em.DecodeError, match="more than 99999 bytes"):
        _compression.decompress(compression, packed, 99_999)
    for cut in range(0, len(packed), 7):
        with pytest.raises(em.DecodeError):
            _compression.decompress(compression, packed[:cut])
    chance = random.Random(3)
    for _ in range(300):
        noise = bytearray(packed)
        for _ in range(3):
            noise[chance.randrange(len(noise))] = chance.randrange(256)
        try:
            _compression.decompress(compression, bytes(noise), 200_000)
        except em.DecodeError:
            pass


def test_a_package_that_is_missing_is_told_with_how_to_install_it():
    program = """
import sys
sys.modules["msgpack"] = sys.modules["zstandard"] = sys.modules["compression.zstd"] = None
import event_manager as em
from event_manager import codecs
with em.connect("tcp://127.0.0.1:1", timeout=0.1, codec=codecs.Msgpack) as hub:
    for wrong in (lambda: hub.publish("a", 1), lambda: em.connect(compress_above=1, compression="zstd")):
        try:
            wrong()
        except em.Missing as error:
            print(error)
"""
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.splitlines() == [
        "the codec Msgpack needs the package msgpack; nothing was done; pip install 'event-manager[msgpack]'",
        "the compression zstd needs the package zstandard; nothing was done; pip install 'event-manager[zstd]'",
    ]


def test_options_that_can_not_be():
    for options in ({"compress_above": -1}, {"compress_above": 1, "compression": "lzma"}):
        with pytest.raises(em.InvalidArgument):
            em.connect("tcp://127.0.0.1:1", **options)


def test_a_body_that_is_null_is_none(hub):
    with em.connect(hub.address, timeout=PATIENCE) as connected:
        service, came = em.Service("Billing"), []

        @service.on("a")
        def handle(body: Optional[int], event: em.Event) -> None:
            came.append((body, event.body, event.raw))

        service.start(connected)
        connected.publish("a", b"null")
        connected.flush()
        hub.wait_idle()
        assert came == [(None, None, b"null")]
