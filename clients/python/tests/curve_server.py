"""The other side of CURVE, written from its specification (RFC 26) and not from the client: for tests only."""

import struct

from nacl.bindings import (
    crypto_box,
    crypto_box_afternm,
    crypto_box_beforenm,
    crypto_box_keypair,
    crypto_box_open,
    crypto_box_open_afternm,
)

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"CURVE".ljust(20, b"\0") + b"\1" + bytes(31)
#: Any bytes will do: only the server opens it.
COOKIE = bytes(range(96))


def frame(flags, body):
    if len(body) > 255:
        return bytes((flags | 2,)) + struct.pack(">Q", len(body)) + body
    return bytes((flags, len(body))) + body


def frames_of(data):
    """The flags and bodies of the frames in it; all have to be whole."""
    found = []
    while data:
        if data[0] & 2:
            size, start = struct.unpack(">Q", data[1:9])[0], 9
        else:
            size, start = data[1], 2
        assert len(data) >= start + size
        found.append((data[0], data[start : start + size]))
        data = data[start + size :]
    return found


class Server:
    def __init__(self, kind=b"ROUTER"):
        self.kind = kind
        self.public, self.secret = crypto_box_keypair()
        self.short_public, self.short_secret = crypto_box_keypair()
        self.sent = 0
        self.heard = 0

    def welcome(self, hello):
        """Takes a HELLO's frame, returns a WELCOME's."""
        [(flags, body)] = frames_of(hello)
        assert flags == 4 and len(body) == 200 and body[:8] == b"\x05HELLO\1\0" and body[8:80] == bytes(72)
        self.client_short = body[80:112]
        self.heard = struct.unpack(">Q", body[112:120])[0]
        assert self.heard == 1
        opened = crypto_box_open(body[120:], b"CurveZMQHELLO---" + body[112:120], self.client_short, self.secret)
        assert opened == bytes(64)
        box = crypto_box(self.short_public + COOKIE, b"WELCOME-" + b"w" * 16, self.client_short, self.secret)
        return frame(4, b"\x07WELCOME" + b"w" * 16 + box)

    def ready(self, initiate):
        """Takes an INITIATE's frame, returns a READY's."""
        [(flags, body)] = frames_of(initiate)
        assert flags & ~2 == 4 and body[:9] == b"\x08INITIATE" and body[9:105] == COOKIE
        assert struct.unpack(">Q", body[105:113])[0] == 2
        self.heard = 2
        self.key = crypto_box_beforenm(self.client_short, self.short_secret)
        opened = crypto_box_open_afternm(body[113:], b"CurveZMQINITIATE" + body[105:113], self.key)
        self.client, nonce, vouch, self.metadata = opened[:32], opened[32:48], opened[48:128], opened[128:]
        vouched = crypto_box_open(vouch, b"VOUCH---" + nonce, self.client, self.short_secret)
        assert vouched == self.client_short + self.public
        self.sent = 1
        number = struct.pack(">Q", 1)
        mine = b"\x0bSocket-Type" + struct.pack(">I", len(self.kind)) + self.kind
        return frame(4, b"\x05READY" + number + crypto_box_afternm(mine, b"CurveZMQREADY---" + number, self.key))

    def seal(self, within, body, outer=0, skip=0):
        """A MESSAGE; `within` are the flags in its box."""
        self.sent += 1 + skip
        number = struct.pack(">Q", self.sent)
        box = crypto_box_afternm(bytes((within,)) + body, b"CurveZMQMESSAGES" + number, self.key)
        return frame(outer, b"\x07MESSAGE" + number + box)

    def open(self, data):
        """The flags and bodies in the boxes of whole MESSAGEs, which have to be as libzmq's are."""
        found = []
        for flags, body in frames_of(data):
            assert flags & ~2 == 0 and body[:8] == b"\x07MESSAGE" and len(body) >= 33
            number = struct.unpack(">Q", body[8:16])[0]
            assert number == self.heard + 1
            self.heard = number
            opened = crypto_box_open_afternm(body[16:], b"CurveZMQMESSAGEC" + body[8:16], self.key)
            found.append((opened[0], opened[1:]))
        return found
