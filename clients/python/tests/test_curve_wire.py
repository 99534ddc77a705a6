"""CURVE as bytes: against a server written from the specification, against garbage, and against libzmq."""

import random
import re

import pytest
import zmq
from curve_server import GREETING, Server, frame
from nacl.bindings import crypto_box_keypair
from zmq.utils import z85

from event_manager import _zmtp
from event_manager._curve import CurvePeer
from event_manager._zmtp import Command, ProtocolError

PATIENCE_MS = 20_000


def client(server, kind=b"DEALER", **limits):
    public, secret = crypto_box_keypair()
    peer = CurvePeer(kind, server=server.public, public=public, secret=secret, **limits)
    return peer


def said(peer):
    data = b"".join(peer.out)
    peer.out.clear()
    return data


def opened(kind=b"DEALER", theirs=b"ROUTER", **limits):
    """A client after its handshake, and its server."""
    server = Server(theirs)
    peer = client(server, kind, **limits)
    assert said(peer) == _zmtp.greeting(b"CURVE")
    assert peer.feed(GREETING) == []
    assert peer.feed(server.welcome(said(peer))) == []
    received = peer.feed(server.ready(said(peer)))
    assert [each.name for each in received] == [b"READY"] and peer.open
    return peer, server


def test_the_handshake_is_as_the_specification_has_it():
    server = Server()
    public, secret = crypto_box_keypair()
    peer = CurvePeer(b"DEALER", server=server.public, public=public, secret=secret, identity=b"me")
    assert "may not have CURVE" in peer.hint
    peer.feed(said(peer).replace(b"\x7f\x03\x01", b"\x7f\x03\x00"))  # a server of ZMTP 3.0
    assert peer.minor == 0 and "wrong server key, or this key is not known" in peer.hint and not peer.open
    peer.feed(server.ready(said_after(peer, server)))
    assert server.client == public
    assert server.metadata == b"\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\x02me"
    assert peer.properties == {b"socket-type": b"ROUTER"} and peer.hint == ""


def said_after(peer, server):
    peer.feed(server.welcome(said(peer)))
    return said(peer)


def test_what_is_sent_is_in_boxes_as_libzmqs():
    peer, server = opened()
    plain = _zmtp.message([b"a", b"", b"x" * 222, b"y" * 223, b"z" * 70_000]) + _zmtp.ping(b"ctx", 5)
    sealed = peer.seal(plain)
    assert b"x" * 8 not in sealed and b"PING" not in sealed
    assert server.open(sealed) == [
        (1, b"a"), (1, b""), (1, b"x" * 222), (1, b"y" * 223), (0, b"z" * 70_000), (2, b"\x04PING\0\5ctx"),
    ]
    assert server.open(peer.seal(peer.subscription(b"order."))) == [(2, b"\x09SUBSCRIBEorder.")]
    peer.minor = 0
    assert server.open(peer.seal(peer.subscription(b"order.", cancel=True))) == [(0, b"\0order.")]


def test_what_comes_is_opened():
    peer, server = opened()
    assert peer.feed(server.seal(1, b"a") + server.seal(0, b"b" * 300, skip=1000)) == [[b"a", b"b" * 300]]
    assert peer.feed(server.seal(0, b"", outer=4)) == [[b""]]  # as RFC 37 has the frame around
    assert peer.feed(server.seal(2, b"\x09SUBSCRIBEabc" + b"x" * 300)) == [Command(b"SUBSCRIBE", b"abc" + b"x" * 300)]
    assert peer.feed(server.seal(1, b"a") + server.seal(2, b"\x04PING\0\0context") + server.seal(0, b"b")) == [[b"a", b"b"]]
    assert server.open(said(peer)) == [(2, b"\x04PONGcontext")]


def test_everything_survives_a_split_at_every_byte():
    rng = random.Random(1)
    for _ in range(3):
        peer, server = opened()
        sent = [[rng.randbytes(rng.choice((0, 1, 221, 222, 300))) for _ in range(rng.randrange(1, 4))] for _ in range(3)]
        data = b"".join(server.seal(int(at < len(each) - 1), body) for each in sent for at, body in enumerate(each))
        assert [each for byte in data for each in peer.feed(bytes((byte,)))] == sent
    server = Server()
    peer = client(server)
    said(peer)
    for byte in GREETING:
        peer.feed(bytes((byte,)))
    for byte in server.welcome(said(peer)):
        peer.feed(bytes((byte,)))
    for byte in server.ready(said(peer)) + server.seal(0, b"at once"):
        received = peer.feed(bytes((byte,)))
    assert received == [[b"at once"]]


def test_all_of_the_servers_words_may_come_together():
    server = Server()
    peer = client(server)
    said(peer)
    peer.feed(GREETING)
    peer.feed(server.welcome(said(peer)))
    received = peer.feed(server.ready(said(peer)) + server.seal(1, b"a") + server.seal(0, b"b"))
    assert received[1:] == [[b"a", b"b"]]


def test_a_failed_write_is_counted_in_plain_bytes():
    peer, _ = opened()
    messages = [_zmtp.message([b"order", b"x" * size]) for size in (0, 10, 300)]
    plain = b"".join(messages)
    sealed = peer.seal(plain)
    assert peer.plain_bytes(plain, 0) == 0
    assert peer.plain_bytes(plain, len(sealed)) == len(plain)
    first = len(peer.seal(messages[0]))
    assert peer.plain_bytes(plain, first) == len(messages[0])
    # One byte of the second event has gone out: it isn't taken back.
    assert peer.plain_bytes(plain, first + 1) > len(messages[0])
    assert all(peer.plain_bytes(plain, at) <= peer.plain_bytes(plain, at + 1) for at in range(len(sealed)))


LOW_ORDER = bytes(32), b"\1" + bytes(31), bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f")


@pytest.mark.parametrize("key", LOW_ORDER)
def test_keys_that_lead_to_no_secret_are_refused(key):
    server = Server()
    server.public = key
    with pytest.raises(ProtocolError, match="is no key"):
        client(server)
    server = Server()
    server.short_public = key
    peer = client(server)
    said(peer)
    peer.feed(GREETING)
    with pytest.raises(ProtocolError, match="is no key"):
        peer.feed(server.welcome(said(peer)))


def hostile(how):
    """What a server, or somebody between, may do; each ends the connection with this reason."""
    peer, server = opened(max_message_bytes=1000)
    box = server.seal(0, b"event")
    how(peer, server, box)


@pytest.mark.parametrize(
    "why, how",
    [
        ("twice", lambda peer, server, box: peer.feed(box) and peer.feed(box)),
        ("out of order", lambda peer, server, box: peer.feed(server.seal(0, b"later")) and peer.feed(box)),
        ("can't be opened", lambda peer, server, box: peer.feed(box[:-1] + bytes((box[-1] ^ 1,)))),
        ("can't be opened", lambda peer, server, box: peer.feed(box[:17] + b"\x09" + box[18:])),
        ("can't be opened", lambda peer, server, box: peer.feed(peer.seal(_zmtp.message([b"back"])))),
        ("not in a box", lambda peer, server, box: peer.feed(_zmtp.message([b"in the clear"]))),
        ("not in a box", lambda peer, server, box: peer.feed(_zmtp.command(b"PING", b"\0\0"))),
        ("not in a box", lambda peer, server, box: peer.feed(frame(0, box[2:34]))),
        ("flags 0x01", lambda peer, server, box: peer.feed(server.seal(0, b"x", outer=1))),
        ("flags 0x08", lambda peer, server, box: peer.feed(server.seal(0, b"x", outer=8))),
        ("flags 0x03", lambda peer, server, box: peer.feed(server.seal(3, b"\x04PING\0\0"))),
        ("flags 0x80", lambda peer, server, box: peer.feed(server.seal(128, b"x"))),
        ("longer than", lambda peer, server, box: peer.feed(b"\x02" + (1 << 40).to_bytes(8, "big"))),
        ("more than 1000 bytes", lambda peer, server, box: peer.feed(server.seal(0, bytes(1001)))),
        ("more than 1000 bytes", lambda peer, server, box: peer.feed(server.seal(1, bytes(501)) + server.seal(0, bytes(500)))),
        ("the peer refuses: no", lambda peer, server, box: peer.feed(server.seal(2, b"\x05ERROR\x02no"))),
    ],
)
def test_what_a_connection_does_not_survive(why, how):
    with pytest.raises(ProtocolError, match=re.escape(why)):
        hostile(how)


@pytest.mark.parametrize(
    "why, data",
    [
        ("wants the mechanism NULL", _zmtp.GREETING),
        ("wants the mechanism PLAIN", GREETING.replace(b"CURVE", b"PLAIN")),
        ("before its READY", GREETING + _zmtp.message([b"early"])),
        ("instead of WELCOME", GREETING + _zmtp.ready({b"Socket-Type": b"ROUTER"})),
        ("instead of WELCOME", GREETING + _zmtp.command(b"WELCOME", bytes(159))),
        ("can't be opened", GREETING + _zmtp.command(b"WELCOME", bytes(160))),
        ("the peer refuses: 400", GREETING + _zmtp.command(b"ERROR", b"\x03400")),
        ("longer than", GREETING + b"\x06" + (1 << 40).to_bytes(8, "big")),
        ("speaks no ZeroMQ", b"HTTP/1.1 200"),
    ],
)
def test_a_handshake_that_fails(why, data):
    peer = client(Server())
    with pytest.raises(ProtocolError, match=re.escape(why)) as first:
        peer.feed(data)
    with pytest.raises(ProtocolError) as again:
        peer.feed(b"more")
    assert str(again.value) == str(first.value)


def test_a_server_that_has_not_the_secret_of_its_key_is_told_nothing():
    known, other = Server(), Server()
    peer = client(known)
    said(peer)
    peer.feed(GREETING)
    hello = said(peer)
    known.welcome(hello)
    other.client_short = known.client_short
    forged = Server.welcome.__get__(other)
    with pytest.raises(Exception):
        forged(hello)  # It can't even read it.


@pytest.mark.parametrize("seed", range(10))
def test_garbage_raises_protocol_errors_and_nothing_else(seed):
    rng = random.Random(seed)
    refused = 0
    for _ in range(150):
        server = Server()
        peer = client(server, max_message_bytes=5000, max_frames=5)
        said(peer)

        def mutate(data):
            data = bytearray(data)
            for _ in range(rng.choice((0, 0, 1, 3))):
                where = rng.randrange(len(data))
                rng.choice((
                    lambda: data.__setitem__(where, rng.randrange(256)),
                    lambda: data.__delitem__(slice(where, where + rng.randrange(9))),
                    lambda: data.__setitem__(slice(where, where), rng.randbytes(rng.randrange(9))),
                ))()
            return bytes(data)

        try:
            peer.feed(mutate(GREETING))
            if not peer.out:
                continue
            peer.feed(mutate(server.welcome(said(peer))))
            if not peer.out:
                continue
            data = server.ready(said(peer)) + b"".join(
                server.seal(rng.choice((0, 0, 1, 2, 9)), rng.randbytes(rng.choice((0, 1, 9, 300, 6000)))) for _ in range(4)
            )
            data, at = mutate(data), 0
            while at < len(data):
                size = rng.randrange(1, 400)
                peer.feed(data[at : at + size])
                at += size
        except ProtocolError as error:
            refused += 1
            with pytest.raises(ProtocolError) as again:
                peer.feed(b"more")
            assert str(again.value) == str(error)
    assert refused > 30


def connected(context, kind, ours, **options):
    """A CURVE server of libzmq, and a client of ours on a socket of the machine."""
    import socket

    public, secret = zmq.curve_keypair()
    server = context.socket(kind)
    server.linger, server.rcvtimeo, server.sndtimeo = 0, PATIENCE_MS, PATIENCE_MS
    server.curve_server, server.curve_secretkey, server.curve_publickey = True, secret, public
    for name, value in options.items():
        setattr(server, name, value)
    port = server.bind_to_random_port("tcp://127.0.0.1")
    own_public, own_secret = crypto_box_keypair()
    peer = CurvePeer(ours, server=z85.decode(public), public=own_public, secret=own_secret)
    stream = socket.create_connection(("127.0.0.1", port))
    stream.settimeout(PATIENCE_MS / 1000)
    context.used = [server, stream]
    return server, peer, stream


def pump(peer, stream, enough):
    """Writes and reads until `enough` is true of what came."""
    received = []
    while True:
        stream.sendall(said(peer))
        if enough(received):
            return received
        data = stream.recv(1 << 16)
        assert data, "libzmq closed the connection"
        received += peer.feed(data)


@pytest.fixture
def context():
    class Context(zmq.Context):
        used = ()

    made = Context()
    yield made
    for each in made.used:
        each.close()
    made.term()


def test_requests_to_a_router_of_libzmq(context):
    server, peer, stream = connected(context, zmq.ROUTER, b"DEALER")
    with stream:
        pump(peer, stream, lambda _: peer.open)
        for size in (0, 1, 221, 222, 223, 255, 256, 70_000, 3 << 20):
            stream.sendall(peer.seal(_zmtp.message([b"", b"q" * size])))
            who, *frames = server.recv_multipart()
            assert frames == [b"", b"q" * size]
            server.send_multipart([who, b"", b"a" * size])
            assert pump(peer, stream, bool) == [[b"", b"a" * size]]
        stream.sendall(b"".join(peer.seal(_zmtp.message([b"", b"%d" % n])) for n in range(5000)))
        assert [server.recv_multipart()[2] for _ in range(5000)] == [b"%d" % n for n in range(5000)]
        stream.sendall(peer.seal(_zmtp.ping(b"mark")))
        assert pump(peer, stream, bool) == [Command(b"PONG", b"mark")]


def test_publishing_to_an_xsub_of_libzmq(context):
    server, peer, stream = connected(context, zmq.XSUB, b"XPUB")
    with stream:
        pump(peer, stream, lambda _: peer.open)
        server.send(b"\1order.")
        received = pump(peer, stream, bool)
        assert [_zmtp.subscribed_to(each) for each in received] == [(True, b"order.")]
        stream.sendall(peer.seal(_zmtp.message([b"order.created", b"1"])))
        assert server.recv_multipart() == [b"order.created", b"1"]


def test_subscribing_at_an_xpub_of_libzmq_that_sends_heartbeats(context):
    server, peer, stream = connected(context, zmq.XPUB, b"XSUB", heartbeat_ivl=50, heartbeat_timeout=500)
    with stream:
        pump(peer, stream, lambda _: peer.open)
        stream.sendall(peer.seal(peer.subscription(b"order.")))
        assert server.recv() == b"\1order."
        answered = []

        def enough(received):
            answered.append(len(peer.out))
            return len(answered) > 20

        pump(peer, stream, enough)  # Twenty PINGs: it would have closed the connection otherwise.
        server.send_multipart([b"order.created", b"1"])
        assert pump(peer, stream, bool) == [[b"order.created", b"1"]]


def test_a_server_of_libzmq_with_another_key_closes(context):
    server, peer, stream = connected(context, zmq.ROUTER, b"DEALER")
    own = crypto_box_keypair()
    peer = CurvePeer(b"DEALER", server=crypto_box_keypair()[0], public=own[0], secret=own[1])
    with stream, pytest.raises((AssertionError, ProtocolError, ConnectionError)):
        pump(peer, stream, lambda _: peer.open)
    assert "wrong server key" in peer.hint
