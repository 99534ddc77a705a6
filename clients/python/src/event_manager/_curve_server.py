"""ZMTP 3.1 with the mechanism CURVE, without any input or output: the side that is connected to. Services that answer calls need it."""

from __future__ import annotations

from typing import Dict, List

from nacl.bindings import crypto_box_afternm
from nacl.utils import random

from ._curve import OF_CLIENT, OF_SERVER, CurvePeer, agree, head
from ._zmtp import ProtocolError, command, greeting, metadata

_COMMAND = 4
_COOKIE_BYTES = 96
#: HELLO with its version and padding, a key, a counter, a box of 64 bytes.
_HELLO_BYTES = 200
#: INITIATE, the cookie, a counter, a box of a key, a nonce, a vouch, and metadata.
_INITIATE_BYTES = 9 + _COOKIE_BYTES + 8 + 16 + 32 + 16 + 80
#: The counter of READY; those of messages go on from there.
_READY = (1).to_bytes(8, "big")


class CurveServerPeer(CurvePeer):
    """The side of a connection that is connected to, with the keys `public` and `secret`, by nobody but the owner of the key `client`."""

    _our_boxes, _their_boxes = OF_SERVER, OF_CLIENT

    def __init__(self, socket_type: bytes, *, client: bytes, public: bytes, secret: bytes) -> None:
        super().__init__(socket_type, server=client, public=public, secret=secret)
        self._ours = 1
        self._cookie = random(_COOKIE_BYTES)
        self._client_short = b""

    def _beginning(self, properties: Dict[bytes, bytes]) -> List[bytes]:
        super()._beginning(properties)
        return [greeting(self.mechanism, is_server=True)]

    @property
    def hint(self) -> str:
        return "" if self.open else " during the handshake of CURVE: it may know another key of this service"

    def _say_hello(self) -> None:
        self._said_hello = True  # The other side does.

    def _handshake(self, flags: int, body: bytes) -> bytes:
        if not flags & _COMMAND:
            raise ProtocolError("the peer sent a message before the handshake was over")
        if body.startswith(b"\x05ERROR"):
            return head(_COMMAND, len(body)) + body
        if not self._welcomed:
            self._hello(body)
            return b""
        return self._initiate(body)

    def _hello(self, body: bytes) -> None:
        """Takes a HELLO, and says WELCOME."""
        if not body.startswith(b"\x05HELLO\1") or len(body) != _HELLO_BYTES:
            raise ProtocolError("the peer sent another command instead of HELLO")
        self._client_short = body[80:112]
        self._key = agree(self._client_short, self._secret)
        if self._opened(body[120:], b"CurveZMQHELLO---" + body[112:120]) != bytes(64):
            raise ProtocolError("the peer's HELLO has something else in its box")
        nonce = random(16)
        box = crypto_box_afternm(self._short_public + self._cookie, b"WELCOME-" + nonce, self._key)
        self.out.append(command(b"WELCOME", nonce + box))
        self._key = agree(self._client_short, self._short_secret)
        self._welcomed = True

    def _initiate(self, body: bytes) -> bytes:
        """Takes an INITIATE, which tells who the peer is, and says READY; returns what the scanner of plain frames shall see of it."""
        cookie_end = 9 + _COOKIE_BYTES
        if not body.startswith(b"\x08INITIATE" + self._cookie) or len(body) < _INITIATE_BYTES:
            raise ProtocolError("the peer sent another command instead of INITIATE")
        number = body[cookie_end : cookie_end + 8]
        opened = self._opened(body[cookie_end + 8 :], b"CurveZMQINITIATE" + number)
        client, nonce, vouch, theirs = opened[:32], opened[32:48], opened[48:128], opened[128:]
        if client != self._server:
            raise ProtocolError("the peer has another key than the event manager")
        whole, self._key = self._key, agree(client, self._short_secret)
        if self._opened(vouch, b"VOUCH---" + nonce) != self._client_short + self._public:
            raise ProtocolError("the peer's vouch is for another connection")
        self._key = whole
        self._theirs = self._counter(number)
        box = crypto_box_afternm(self._metadata, b"CurveZMQREADY---" + _READY, self._key)
        self.out.append(command(b"READY", _READY + box))
        return command(b"READY", theirs)
