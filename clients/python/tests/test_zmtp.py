"""Our ZMTP against itself, against garbage, and against libzmq."""

import random
import re
import select
import socket
import struct
import threading

import pytest
import zmq

from event_manager import _zmtp
from event_manager._zmtp import Command, Peer, ProtocolError

PATIENCE_MS = 20_000


def opened(ours, theirs, **limits):
    """Two peers after their handshake."""
    a, b = Peer(ours, **limits), Peer(theirs, **limits)
    for data in a.out:
        b.feed(data)
    for data in b.out:
        a.feed(data)
    a.out.clear()
    b.out.clear()
    assert a.open and b.open
    return a, b


def some_message(rng):
    frames = []
    for _ in range(rng.choice((1, 1, 2, 3, 7))):
        frames.append(rng.randbytes(rng.choice((0, 1, 2, 9, 254, 255, 256, 257, 1000))))
    return frames


def test_the_handshake_tells_each_side_of_the_other():
    a, b = Peer(b"DEALER", identity=b"me"), Peer(b"ROUTER")
    received = b.feed(b"".join(a.out))
    assert [command.name for command in received] == [b"READY"]
    assert b.properties == {b"socket-type": b"DEALER", b"identity": b"me"}
    assert b.minor == 1


def test_messages_and_commands_survive_a_split_at_every_byte():
    rng = random.Random(1)
    sent = [some_message(rng) for _ in range(3)] + [Command(b"SUBSCRIBE", b"x" * 300)] + [[b"end"]]
    data = b"".join(
        _zmtp.command(each.name, each.body) if isinstance(each, Command) else _zmtp.message(each) for each in sent
    )
    greeting = b"".join(Peer(b"ROUTER").out)
    whole = greeting + data
    for split in range(len(whole) + 1):
        peer = Peer(b"DEALER")
        received = peer.feed(whole[:split]) + peer.feed(whole[split:])
        assert received[1:] == sent
    peer = Peer(b"DEALER")
    one_by_one = [each for byte in whole for each in peer.feed(bytes((byte,)))]
    assert one_by_one[1:] == sent


@pytest.mark.parametrize("seed", range(20))
def test_random_messages_in_random_pieces(seed):
    rng = random.Random(seed)
    a, b = opened(b"DEALER", b"ROUTER")
    sent = [some_message(rng) for _ in range(200)]
    data = b"".join(map(_zmtp.message, sent))
    received, at = [], 0
    while at < len(data):
        size = rng.choice((1, 2, 5, 60, 700, 5000))
        received += b.feed(data[at : at + size])
        at += size
    assert received == sent


@pytest.mark.parametrize("seed", range(10))
def test_garbage_raises_protocol_errors_and_nothing_else(seed):
    rng = random.Random(seed)
    refused = 0
    for _ in range(600):
        peer = Peer(rng.choice((b"DEALER", b"XPUB", b"XSUB")), max_message_bytes=5000, max_frames=5)
        data = bytearray(b"".join(Peer(b"ROUTER" if peer.socket_type == b"DEALER" else b"XSUB").out))
        data += b"".join(_zmtp.message(some_message(rng)) for _ in range(3))
        for _ in range(rng.randrange(1, 6)):
            where = rng.randrange(len(data))
            rng.choice((
                lambda: data.__setitem__(where, rng.randrange(256)),
                lambda: data.__delitem__(slice(where, where + rng.randrange(9))),
                lambda: data.__setitem__(slice(where, where), rng.randbytes(rng.randrange(9))),
            ))()
        try:
            at = 0
            while at < len(data):
                size = rng.randrange(1, 400)
                peer.feed(bytes(data[at : at + size]))
                at += size
        except ProtocolError as error:
            refused += 1
            with pytest.raises(ProtocolError) as again:
                peer.feed(b"more")
            assert str(again.value) == str(error)
    assert refused > 100


@pytest.mark.parametrize(
    "data, why",
    [
        (b"HTTP/1.1 400", "speaks no ZeroMQ"),
        (b"\xff" + bytes(8) + b"\x7e", "speaks no ZeroMQ"),
        (b"\xff" + bytes(8) + b"\x7f\x01", "older than 3.0"),
        (b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"CURVE".ljust(20, b"\0") + bytes(32), "CURVE"),
        (_zmtp.GREETING + _zmtp.message([b"early"]), "before its READY"),
        (_zmtp.GREETING + _zmtp.command(b"HELLO"), "instead of READY"),
        (_zmtp.GREETING + _zmtp.ready({b"Socket-Type": b"PUB"}), "is a PUB"),
        (_zmtp.GREETING + _zmtp.ready({}), "without a type"),
        (_zmtp.GREETING + _zmtp.command(b"READY", b"\x05ab"), "cut off"),
        (_zmtp.GREETING + _zmtp.command(b"ERROR", b"\x04busy"), "refuses: busy"),
        (_zmtp.GREETING + b"\x08\x00", "flags"),
        (_zmtp.GREETING + b"\x05\x00", "flags"),
        (_zmtp.GREETING + b"\x04\x00", "no name"),
        (_zmtp.GREETING + b"\x06" + struct.pack(">Q", 1 << 60), "command of"),
    ],
)
def test_what_is_refused_and_why(data, why):
    with pytest.raises(ProtocolError, match=why):
        Peer(b"DEALER").feed(data)


def test_limits_hold_before_the_body_has_come():
    a, b = opened(b"DEALER", b"ROUTER", max_message_bytes=1000, max_frames=3)
    assert b.feed(_zmtp.frame(bytes(600), more=True)) == []
    with pytest.raises(ProtocolError, match="more than 1000 bytes"):
        b.feed(b"\x02" + (401).to_bytes(8, "big"))
    a, b = opened(b"DEALER", b"ROUTER", max_frames=3)
    with pytest.raises(ProtocolError, match="more than 3 frames"):
        b.feed(b"\x01\x00" * 4)


def test_a_ping_is_answered_with_the_first_16_bytes_of_its_context():
    a, b = opened(b"DEALER", b"ROUTER")
    assert b.feed(_zmtp.command(b"PING", b"\0\0" + b"0123456789abcdefXX")) == []
    assert a.feed(b"".join(b.out)) == [Command(b"PONG", b"0123456789abcdef")]
    with pytest.raises(ValueError):
        _zmtp.ping(b"x" * 17)
    with pytest.raises(ProtocolError, match="cut off"):
        b.feed(_zmtp.command(b"PING", b"\0"))


STREAMS = []


@pytest.fixture(autouse=True)
def streams():
    yield
    while STREAMS:
        STREAMS.pop().close()


class Wire:
    """Our peer on a blocking socket."""

    def __init__(self, stream, *arguments, **keywords):
        self.stream = stream
        STREAMS.append(stream)
        stream.settimeout(PATIENCE_MS / 1000)
        self.peer = Peer(*arguments, **keywords)
        self.received = []
        self.flush()
        while not self.peer.open:
            self.read()
        self.received.pop(0)

    def flush(self):
        for data in self.peer.out:
            self.stream.sendall(data)
        self.peer.out.clear()

    def read(self):
        data = self.stream.recv(100_000)
        assert data, "the peer closed the connection"
        self.received += self.peer.feed(data)
        self.flush()

    def next(self, awake=None):
        """The next item. `awake` is a socket of libzmq that has to be looked at meanwhile, for it to notice that it is connected."""
        while not self.received:
            while awake is not None and not select.select([self.stream], [], [], 0.01)[0]:
                awake.poll(0)
            self.read()
        return self.received.pop(0)

    def send(self, data):
        self.stream.sendall(data)


@pytest.fixture
def libzmq():
    context = zmq.Context()
    sockets = []

    def make(kind, **options):
        made = context.socket(kind)
        made.rcvtimeo = made.sndtimeo = PATIENCE_MS
        made.linger = 0
        for name, value in options.items():
            setattr(made, name, value)
        sockets.append(made)
        return made

    yield make
    for each in sockets:
        each.close()
    context.term()


def wire_to(theirs, we_dial, *arguments, **keywords):
    """Connects our peer with a libzmq socket; either of them dials."""
    if we_dial:
        port = theirs.bind_to_random_port("tcp://127.0.0.1")
        return Wire(socket.create_connection(("127.0.0.1", port)), *arguments, **keywords)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE_MS / 1000)
        theirs.connect("tcp://127.0.0.1:%d" % server.getsockname()[1])
        return Wire(server.accept()[0], *arguments, **keywords)


@pytest.mark.parametrize("we_dial", [True, False])
def test_dealer_with_a_router_of_libzmq(libzmq, we_dial):
    rng = random.Random(2)
    router = libzmq(zmq.ROUTER)
    wire = wire_to(router, we_dial, b"DEALER", identity=b"worker-1")
    for _ in range(50):
        sent = some_message(rng)
        wire.send(_zmtp.message(sent))
        assert router.recv_multipart() == [b"worker-1", *sent]
        answer = some_message(rng)
        router.send_multipart([b"worker-1", *answer])
        assert wire.next() == answer


@pytest.mark.parametrize("frames", [[b"x", 16 << 20], [64 << 20], [b"", 255, 256, 1 << 16, b""]], ids=str)
def test_long_messages_both_ways(libzmq, frames):
    router = libzmq(zmq.ROUTER)
    wire = wire_to(router, True, b"DEALER", identity=b"w")
    sent = [random.Random(3).randbytes(each) if isinstance(each, int) else each for each in frames]
    sender = threading.Thread(target=wire.send, args=(_zmtp.message(sent),))
    sender.start()
    assert router.recv_multipart() == [b"w", *sent]
    sender.join()
    router.send_multipart([b"w", *sent])
    assert wire.next() == sent


def test_a_message_longer_than_64_mib_of_libzmq_is_refused(libzmq):
    router = libzmq(zmq.ROUTER)
    wire = wire_to(router, True, b"DEALER", identity=b"w")
    wire.send(_zmtp.message([b"hello"]))
    router.recv_multipart()
    router.send_multipart([b"w", b"x", bytes(64 << 20)])
    with pytest.raises(ProtocolError, match="more than 67108864 bytes"):
        wire.next()


@pytest.mark.parametrize("seed", range(10))
def test_sessions_with_a_few_wrong_bytes(seed):
    """A real session in which bytes are changed, lost, doubled or swapped: it is read on, or refused, and nothing else."""
    rng = random.Random(seed)
    refused = 0
    for _ in range(300):
        ours, theirs = rng.choice(((b"DEALER", b"ROUTER"), (b"XPUB", b"XSUB"), (b"XSUB", b"XPUB")))
        peer, other = Peer(ours, max_message_bytes=5000, max_frames=8), Peer(theirs)
        other.feed(b"".join(peer.out))
        data = bytearray(b"".join(other.out))
        for _ in range(10):
            data += rng.choice((
                lambda: _zmtp.message(some_message(rng)), lambda: _zmtp.ping(rng.randbytes(8)),
                lambda: _zmtp.command(b"SUBSCRIBE", rng.randbytes(5)),
            ))()  # fmt: skip
        for _ in range(rng.randrange(4)):
            at = rng.randrange(len(data))
            change = rng.randrange(4)
            if change == 0:
                data[at] = rng.randrange(256)
            elif change == 1:
                del data[at : at + rng.randrange(1, 9)]
            elif change == 2:
                data[at:at] = data[at : at + rng.randrange(1, 9)]
            else:
                data[at : at + 8] = rng.randbytes(8)
        try:
            at = 0
            while at < len(data):
                size = rng.choice((1, 3, 40, 700))
                for item in peer.feed(bytes(data[at : at + size])):
                    if not isinstance(item, Command):
                        assert len(item) <= 8 and sum(map(len, item)) <= 5000 and peer.open
                at += size
        except ProtocolError as error:
            refused += 1
            with pytest.raises(ProtocolError, match=re.escape(str(error))):
                peer.feed(b"more")
    assert 0 < refused < 300


@pytest.mark.parametrize("we_dial", [True, False])
def test_dealer_with_a_rep_of_libzmq(libzmq, we_dial):
    rep = libzmq(zmq.REP)
    wire = wire_to(rep, we_dial, b"DEALER")
    wire.send(_zmtp.message([b"12345678", b"", b"question"]))
    assert rep.recv_multipart() == [b"question"]
    rep.send_multipart([b"answer", b""])
    assert wire.next() == [b"12345678", b"", b"answer", b""]


@pytest.mark.parametrize("we_dial", [True, False])
def test_xsub_with_an_xpub_of_libzmq(libzmq, we_dial):
    xpub = libzmq(zmq.XPUB)
    wire = wire_to(xpub, we_dial, b"XSUB")
    wire.send(wire.peer.subscription(b"order."))
    assert xpub.recv() == b"\x01order."
    xpub.send_multipart([b"other.x", b"no"])
    xpub.send_multipart([b"order.created", b"yes", b"{}"])
    assert wire.next() == [b"order.created", b"yes", b"{}"]
    wire.send(wire.peer.subscription(b"order.", cancel=True))
    assert xpub.recv() == b"\x00order."


@pytest.mark.parametrize("we_dial", [True, False])
def test_xpub_with_an_xsub_of_libzmq(libzmq, we_dial):
    xsub = libzmq(zmq.XSUB)
    wire = wire_to(xsub, we_dial, b"XPUB")
    xsub.send(b"\x01order.")
    assert _zmtp.subscribed_to(wire.next(awake=xsub)) == (True, b"order.")
    sent = [b"order.created", bytes(300), b"{}"]
    wire.send(_zmtp.message(sent))
    assert xsub.recv_multipart() == sent
    xsub.send(b"\x00order.")
    assert _zmtp.subscribed_to(wire.next()) == (False, b"order.")


def test_heartbeats_both_ways(libzmq):
    router = libzmq(zmq.ROUTER, heartbeat_ivl=30, heartbeat_timeout=PATIENCE_MS, heartbeat_ttl=PATIENCE_MS)
    wire = wire_to(router, True, b"DEALER", identity=b"w")
    wire.send(_zmtp.ping(b"mark"))
    assert wire.next() == Command(b"PONG", b"mark")
    # It PINGs by itself; our answers keep the connection.
    pongs = 0
    while pongs < 3:
        wire.received += wire.peer.feed(wire.stream.recv(1000))
        pongs += len(wire.peer.out)
        wire.flush()
    router.send_multipart([b"w", b"still there"])
    assert wire.next() == [b"still there"]


def test_a_wrong_partner_of_libzmq_is_refused(libzmq):
    with pytest.raises((ProtocolError, AssertionError), match="is a PUB|closed"):
        wire_to(libzmq(zmq.PUB), True, b"DEALER")
