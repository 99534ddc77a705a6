"""The side of CURVE that is connected to, as bytes: against our own client, against garbage, and against libzmq's client."""

import random

import pytest
import zmq
from nacl.bindings import crypto_box_keypair
from support import PATIENCE
from zmq.utils import z85

from event_manager import _zmtp
from event_manager._curve import CurvePeer
from event_manager._curve_server import CurveServerPeer
from event_manager._messages import Answerer
from event_manager._zmtp import ProtocolError


def pair(vary=None):
    """A client and a server that know each other, unless `vary` changes that: the arguments of both, by name."""
    (ours, our_secret), (theirs, their_secret) = crypto_box_keypair(), crypto_box_keypair()
    of_server = {"client": theirs, "public": ours, "secret": our_secret}
    of_client = {"server": ours, "public": theirs, "secret": their_secret}
    if vary:
        vary(of_server, of_client)
    return CurveServerPeer(b"ROUTER", **of_server), CurvePeer(b"DEALER", **of_client)


def said(peer):
    data = b"".join(peer.out)
    peer.out.clear()
    return data


def talk(server, client, cut=None):
    """Lets them say what they have to say; `cut` splits what one reads."""
    got = []
    for _ in range(5):
        for peer, other in ((client, server), (server, client)):
            data = said(peer)
            for part in cut(data) if cut else [data]:
                got += [(other, each) for each in other.feed(part)]
    return got


def messages(got, whose):
    return [each for peer, each in got if peer is whose and isinstance(each, list)]


def test_both_sides_agree_and_talk():
    server, client = pair()
    talk(server, client)
    assert server.open and client.open and server.properties[b"socket-type"] == b"DEALER"
    assert server.hint == client.hint == ""
    for size in (0, 1, 250, 300, 100_000):
        client.out.append(client.seal(_zmtp.message([b"", b"q" * size])))
        server.out.append(server.seal(_zmtp.message([b"", b"a" * size])))
        got = talk(server, client)
        assert messages(got, server) == [[b"", b"q" * size]] and messages(got, client) == [[b"", b"a" * size]]
    client.out.append(client.seal(_zmtp.ping(b"there?")))
    assert [each for peer, each in talk(server, client) if peer is client] == [_zmtp.Command(b"PONG", b"there?")]


def test_a_handshake_survives_a_split_at_every_byte():
    server, client = pair()
    talk(server, client, lambda data: [data[at : at + 1] for at in range(len(data))])
    assert server.open and client.open


@pytest.mark.parametrize("name", ["client", "public"])
def test_nobody_else_gets_in(name):
    """Neither who has another key than the daemon's, nor who means another service."""

    def vary(of_server, of_client):
        if name == "client":
            of_client["public"], of_client["secret"] = crypto_box_keypair()
        else:
            of_client["server"] = crypto_box_keypair()[0]

    server, client = pair(vary)
    with pytest.raises(ProtocolError, match="another key than the event manager|can't be opened"):
        talk(server, client)
    assert not server.open and not client.open
    with pytest.raises(ProtocolError):
        server.feed(b"\0\0")


def test_a_public_key_without_its_secret_is_not_enough():
    def vary(of_server, of_client):
        of_client["secret"] = crypto_box_keypair()[1]

    server, client = pair(vary)
    with pytest.raises(ProtocolError, match="can't be opened"):
        talk(server, client)


def test_a_vouch_of_another_connection_is_refused():
    """Somebody in the middle can't use what the daemon says to another service."""
    server, client = pair()
    server._public = crypto_box_keypair()[0]
    with pytest.raises(ProtocolError, match="for another connection"):
        talk(server, client)
    assert not server.open


@pytest.mark.parametrize("seed", range(10))
def test_garbage_raises_protocol_errors_and_nothing_else(seed):
    rng = random.Random(seed)
    for _ in range(60):
        server, client = pair()
        client.out.append(b"")
        until = rng.randrange(8)
        try:
            for step in range(8):
                for peer, other in ((client, server), (server, client)):
                    data = bytearray(said(peer))
                    if step == until and other is server:
                        for _ in range(rng.randrange(1, 4)):
                            at = rng.randrange(len(data) + 1)
                            data[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(300))
                    other.feed(bytes(data))
                if client.open:
                    client.out.append(client.seal(_zmtp.message([b"", rng.randbytes(rng.randrange(600))])))
        except ProtocolError:
            pass


def test_a_dealer_of_libzmq_is_answered():
    (ours, our_secret), (theirs, their_secret) = crypto_box_keypair(), crypto_box_keypair()
    answerer = Answerer(
        "127.0.0.1",
        lambda frames, reply: reply([b"answer", *frames]),
        lambda kind: CurveServerPeer(kind, client=theirs, public=ours, secret=our_secret),
    )
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.rcvtimeo = int(PATIENCE * 1000)
        socket.curve_serverkey = z85.encode(ours)
        socket.curve_publickey, socket.curve_secretkey = z85.encode(theirs), z85.encode(their_secret)
        socket.connect(f"tcp://127.0.0.1:{answerer.port}")
        for size in (1, 300, 200_000):
            socket.send_multipart([b"", b"TK_SYS_ACK", bytes(size)])
            assert socket.recv_multipart() == [b"", b"answer", b"TK_SYS_ACK", bytes(size)]
    answerer.close()
