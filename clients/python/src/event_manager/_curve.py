"""ZMTP 3.1 with the mechanism CURVE (RFC 26, as libzmq speaks it), without any input or output: the side that connects.
`_curve_server` has the other one.

A `CurvePeer` is a `Peer` whose bytes are in boxes: what comes is opened and given to the scanner of plain frames; what goes out is
sealed frame by frame. Its keys are bytes. It needs PyNaCl, which only this module imports.
"""

from __future__ import annotations

from typing import Dict, List, Tuple

from nacl.bindings import (
    crypto_box_afternm,
    crypto_box_beforenm,
    crypto_box_keypair,
    crypto_box_open_afternm,
    crypto_scalarmult_base,
)
from nacl.exceptions import CryptoError
from nacl.utils import random

from ._zmtp import COMMAND_MAX_BYTES, Peer, ProtocolError, Received, command, greeting, metadata

_MORE, _LONG, _COMMAND = 1, 2, 4
#: Within a box, other bits say what kind of frame it is.
_FLAGS_WITHIN = {0: 0, 1: _MORE, 2: _COMMAND}

_WELCOME_BYTES = 168
_COOKIE_BYTES = 96
#: MESSAGE with its length, and the counter.
_HEAD_BYTES = 16
#: What a box adds to a frame's body: that head, the authenticator, the flags.
SEALED_EXTRA_BYTES = _HEAD_BYTES + 16 + 1
OF_CLIENT, OF_SERVER = b"CurveZMQMESSAGEC", b"CurveZMQMESSAGES"
#: Counters of the handshake's commands; those of messages go on from there.
_HELLO, _INITIATE = (number.to_bytes(8, "big") for number in (1, 2))


def public_of(secret: bytes) -> bytes:
    """The public key that belongs to a secret one."""
    return crypto_scalarmult_base(secret)


def new_pair() -> Tuple[bytes, bytes]:
    """A new public and secret key."""
    return crypto_box_keypair()


def head(flags: int, size: int) -> bytes:
    """How a frame begins."""
    return bytes((flags, size)) if size < 256 else bytes((flags | _LONG,)) + size.to_bytes(8, "big")


class CurvePeer(Peer):
    """The side of a connection that connects, with the `public` and `secret` keys of a client, to a server with the key `server`.

    See `Peer`. The server proves that it has the secret of its key before anything but a HELLO is sent.
    """

    mechanism = b"CURVE"
    #: How the numbers of boxes begin, of ours and of theirs.
    _our_boxes, _their_boxes = OF_CLIENT, OF_SERVER

    def __init__(
        self, socket_type: bytes, *, server: bytes, public: bytes, secret: bytes,
        identity: bytes = b"", max_message_bytes: int = 64 << 20, max_frames: int = 1024,
    ) -> None:
        self._server, self._public, self._secret = server, public, secret
        self._short_public, self._short_secret = crypto_box_keypair()
        #: Of the handshake: for HELLO and WELCOME, then for all that follows.
        self._key: bytes = agree(server, self._short_secret)
        self._welcomed = False
        self._said_hello = False
        self._ours = 2  # the counter of our last command or message
        self._theirs = 0  # and of theirs
        self._sealed = bytearray()  # read, but not a whole frame yet
        self._wanted = 1  # bytes in `_sealed` below which there is nothing to do
        self._metadata = b""
        super().__init__(socket_type, identity=identity, max_message_bytes=max_message_bytes, max_frames=max_frames)

    def _beginning(self, properties: Dict[bytes, bytes]) -> List[bytes]:
        self._metadata = metadata(properties)
        return [greeting(self.mechanism)]

    def _foreign(self, theirs: str) -> str:
        return f"the peer wants the mechanism {theirs}, and this connection only goes on with CURVE: nothing was sent in the clear"

    @property
    def hint(self) -> str:
        if self.open:
            return ""
        if not self._said_hello:
            return ", in its greeting: it may not have CURVE, or not admit this address"
        return " during the handshake of CURVE: wrong server key, or this key is not known there"

    def feed(self, data: bytes) -> List[Received]:
        if self._failure is not None:
            raise self._failure
        if not self._greeted:
            super().feed(data)
            if not self._greeted:
                return []
            data = bytes(self._rest)
            self._rest.clear()
            self._need = 1
            self._say_hello()
        self._sealed += data
        if len(self._sealed) < self._wanted:
            return []
        try:
            plain = self._open()
        except ProtocolError as error:
            self._sealed.clear()
            raise self._fail(str(error)) from None
        return super().feed(plain)

    def _frames(self, data: bytes, at: int, received: List[Received]) -> int:
        # What is behind the greeting, in the same bytes, is in boxes.
        return at if not self._said_hello else super()._frames(data, at, received)

    def _open(self) -> bytes:
        """The whole frames that have come, as they would be without boxes."""
        sealed, plain = self._sealed, []
        at, end = 0, len(self._sealed)
        while True:
            size_end = at + 2
            if end < size_end:
                break
            flags = sealed[at]
            if flags & ~(_LONG | _COMMAND):
                raise ProtocolError(f"a frame has the flags {flags:#04x}, which no box has")
            size = sealed[at + 1]
            if flags & _LONG:
                size_end = at + 9
                if end < size_end:
                    break
                size = int.from_bytes(sealed[at + 1 : size_end], "big")
            most = self.max_message_bytes + SEALED_EXTRA_BYTES if self.open else COMMAND_MAX_BYTES
            if size > max(most, COMMAND_MAX_BYTES):
                raise ProtocolError(f"a box of {size} bytes is longer than {most}")
            size_end += size
            if end < size_end:
                break
            body = bytes(sealed[size_end - size : size_end])
            plain.append(self._message(body) if self._theirs else self._handshake(flags, body))
            at = size_end
        del sealed[:at]
        self._wanted = size_end - at
        return b"".join(plain)

    def _say_hello(self) -> None:
        self._said_hello = True
        box = crypto_box_afternm(bytes(64), b"CurveZMQHELLO---" + _HELLO, self._key)
        self.out.append(command(b"HELLO", b"\1\0" + bytes(72) + self._short_public + _HELLO + box))

    def _handshake(self, flags: int, body: bytes) -> bytes:
        """Takes a command of the handshake; returns what the scanner of plain frames shall see of it."""
        if not flags & _COMMAND:
            raise ProtocolError("the peer sent a message before its READY")
        if body.startswith(b"\x05ERROR"):
            return head(_COMMAND, len(body)) + body
        if not self._welcomed:
            self._welcome(body)
            return b""
        if not body.startswith(b"\x05READY") or len(body) < 30:
            raise ProtocolError("the peer sent another command instead of READY")
        self._theirs = self._counter(body[6:14])
        return command(b"READY", self._opened(body[14:], b"CurveZMQREADY---" + body[6:14]))

    def _welcome(self, body: bytes) -> None:
        if not body.startswith(b"\x07WELCOME") or len(body) != _WELCOME_BYTES:
            raise ProtocolError("the peer sent another command instead of WELCOME")
        opened = self._opened(body[24:], b"WELCOME-" + body[8:24])
        theirs, cookie = opened[:32], opened[32:]
        self._key = agree(theirs, self._short_secret)
        nonce = random(16)
        vouch = crypto_box_afternm(self._short_public + self._server, b"VOUCH---" + nonce, agree(theirs, self._secret))
        box = crypto_box_afternm(
            self._public + nonce + vouch + self._metadata, b"CurveZMQINITIATE" + _INITIATE, self._key
        )
        self.out.append(command(b"INITIATE", cookie + _INITIATE + box))
        self._welcomed = True

    def _message(self, body: bytes) -> bytes:
        """The plain frame in a MESSAGE."""
        if len(body) < SEALED_EXTRA_BYTES or not body.startswith(b"\x07MESSAGE"):
            raise ProtocolError("the peer sent something that is not in a box, after its READY")
        counter = self._counter(body[8:16])
        content = self._opened(body[16:], self._their_boxes + body[8:16])
        self._theirs = counter
        flags = _FLAGS_WITHIN.get(content[0])
        if flags is None:
            raise ProtocolError(f"a box has the flags {content[0]:#04x}, which mean nothing")
        return head(flags, len(content) - 1) + content[1:]

    def _counter(self, data: bytes) -> int:
        """The counter of a box, which only grows, so that nothing can be sent twice by others."""
        counter = int.from_bytes(data, "big")
        if counter <= self._theirs:
            raise ProtocolError("a box came twice, or out of order")
        return counter

    def _opened(self, box: bytes, nonce: bytes) -> bytes:
        try:
            return crypto_box_open_afternm(box, nonce, self._key)
        except CryptoError:
            raise ProtocolError("a box can't be opened: it was not sealed with the keys that this side knows, or changed on its way") from None

    def seal(self, plain: bytes) -> bytes:
        out: List[bytes] = []
        at, end, counter, key = 0, len(plain), self._ours, self._key
        while at < end:
            flags = plain[at]
            body_at, at = _body(plain, at)
            counter += 1
            number = counter.to_bytes(8, "big")
            within = flags & _MORE | (flags & _COMMAND) >> 1
            box = crypto_box_afternm(b"%c%b" % (within, plain[body_at:at]), self._our_boxes + number, key)
            out += (head(0, _HEAD_BYTES + len(box)), b"\x07MESSAGE", number, box)
        self._ours = counter
        return b"".join(out)

    def plain_bytes(self, plain: bytes, sealed_bytes: int) -> int:
        at = sealed = 0
        while sealed < sealed_bytes:
            body_at, at = _body(plain, at)
            size = at - body_at + SEALED_EXTRA_BYTES
            sealed += len(head(0, size)) + size
        return at


def _body(plain: bytes, at: int) -> Tuple[int, int]:
    """Where the body of a frame of ours begins and ends."""
    if plain[at] & _LONG:
        return at + 9, at + 9 + int.from_bytes(plain[at + 1 : at + 9], "big")
    return at + 2, at + 2 + plain[at + 1]


def agree(public: bytes, secret: bytes) -> bytes:
    """The key that both sides have."""
    try:
        return crypto_box_beforenm(public, secret)
    except (CryptoError, RuntimeError):
        raise ProtocolError("the peer's key is no key") from None
