"""ZMTP 3.1 with the NULL mechanism, without any input or output. `_curve` has the other one.

A `Peer` is one end of one connection. Bytes that were read go into `feed`, which returns what came
in them; bytes to write are collected in `out`. It knows nothing of sockets, threads or clocks.

Limits are checked when a frame's header is read, before memory is taken for its body.
"""

from __future__ import annotations

from typing import Dict, List, Optional, Tuple, Union


def greeting(mechanism: bytes, is_server: bool = False) -> bytes:
    """What a connection begins with: signature, version 3.1, mechanism, whether this side is the server of it."""
    return b"\xff" + bytes(8) + b"\x7f\x03\x01" + mechanism.ljust(20, b"\0") + bytes((is_server,)) + bytes(31)


GREETING = greeting(b"NULL")

#: The longest command that is accepted, in bytes.
COMMAND_MAX_BYTES = 64 << 10

#: The longest context of a PING that is sent back, in bytes (RFC 37).
CONTEXT_MAX_BYTES = 16

#: Which socket types may talk to each other.
PARTNERS: Dict[bytes, Tuple[bytes, ...]] = {
    b"PUB": (b"SUB", b"XSUB"),
    b"XPUB": (b"SUB", b"XSUB"),
    b"SUB": (b"PUB", b"XPUB"),
    b"XSUB": (b"PUB", b"XPUB"),
    b"REQ": (b"REP", b"ROUTER"),
    b"REP": (b"REQ", b"DEALER"),
    b"DEALER": (b"REP", b"DEALER", b"ROUTER"),
    b"ROUTER": (b"REQ", b"DEALER", b"ROUTER"),
}

_MORE, _LONG, _COMMAND = 1, 2, 4

#: How frames of up to 255 bytes begin that are their message's last.
SHORT_HEADS = [bytes((0, size)) for size in range(256)]

#: A message: its frames.
Message = List[bytes]


class ProtocolError(Exception):
    """The peer broke the protocol or a limit; the connection can't be used any more."""


class Command:
    """A command of the peer, such as SUBSCRIBE or PONG. READY is the first one."""

    __slots__ = ("name", "body")

    def __init__(self, name: bytes, body: bytes) -> None:
        self.name = name
        self.body = body

    def __repr__(self) -> str:
        return f"Command({self.name!r}, {self.body[:40]!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Command) and (self.name, self.body) == (other.name, other.body)

    __hash__ = None  # type: ignore[assignment]


Received = Union[Message, Command]


def frame(body: bytes, more: bool = False) -> bytes:
    """One frame of a message; `more` if it isn't the message's last."""
    size = len(body)
    if size < 256:
        return bytes((_MORE if more else 0, size)) + body
    return bytes(((_MORE if more else 0) | _LONG,)) + size.to_bytes(8, "big") + body


def message(frames: Message) -> bytes:
    """A message of one or more frames."""
    if len(frames) == 1:
        return frame(frames[0])
    last = len(frames) - 1
    return b"".join([frame(body, at < last) for at, body in enumerate(frames)])


def command(name: bytes, body: bytes = b"") -> bytes:
    """A command frame. A name has 1 to 255 bytes."""
    content = bytes((len(name),)) + name + body
    size = len(content)
    if size < 256:
        return bytes((_COMMAND, size)) + content
    return bytes((_COMMAND | _LONG,)) + size.to_bytes(8, "big") + content


def ping(context: bytes = b"", ttl_tenths: int = 0) -> bytes:
    """A PING. The answer repeats the context (at most 16 bytes). The peer may close the connection if
    nothing comes for `ttl_tenths` tenths of a second after it; 0 is never."""
    if len(context) > CONTEXT_MAX_BYTES:
        raise ValueError(f"a PING's context has at most {CONTEXT_MAX_BYTES} bytes, not {len(context)}")
    return command(b"PING", ttl_tenths.to_bytes(2, "big") + context)


def metadata(properties: Dict[bytes, bytes]) -> bytes:
    """Properties as a handshake has them."""
    return b"".join(
        bytes((len(name),)) + name + len(value).to_bytes(4, "big") + value
        for name, value in properties.items()
    )


def ready(properties: Dict[bytes, bytes]) -> bytes:
    """The READY of the NULL mechanism."""
    return command(b"READY", metadata(properties))


def properties_of(body: bytes) -> Dict[bytes, bytes]:
    """The properties in a READY; names in lower case."""
    properties: Dict[bytes, bytes] = {}
    at, end = 0, len(body)
    while at < end:
        name_end = at + 1 + body[at]
        value_at = name_end + 4
        if name_end == at + 1 or value_at > end:
            raise ProtocolError("READY has a property that is cut off")
        value_end = value_at + int.from_bytes(body[name_end:value_at], "big")
        if value_end > end:
            raise ProtocolError("READY has a property that is cut off")
        properties[body[at + 1 : name_end].lower()] = body[value_at:value_end]
        at = value_end
    return properties


class Peer:
    """One end of a connection.

    `socket_type` is ours, such as `b"DEALER"`. A message that comes may have `max_message_bytes` in all
    its frames together, and `max_frames` frames.

    After a ProtocolError the connection has to be closed: `feed` only raises the same again.
    """

    mechanism = b"NULL"

    def __init__(
        self,
        socket_type: bytes,
        *,
        identity: bytes = b"",
        max_message_bytes: int = 64 << 20,
        max_frames: int = 1024,
    ) -> None:
        if socket_type not in PARTNERS:
            raise ValueError(f"unknown socket type {socket_type!r}")
        if len(identity) > 255:
            raise ValueError(f"an identity has at most 255 bytes, not {len(identity)}")
        self.socket_type = socket_type
        self.max_message_bytes = max_message_bytes
        self.max_frames = max_frames
        #: What the peer said in its READY; None before that. Messages may be sent from then on.
        self.properties: Optional[Dict[bytes, bytes]] = None
        #: The minor version of the peer's ZMTP 3; PING and SUBSCRIBE are known from 1 on.
        self.minor = 0
        ours = {b"Socket-Type": socket_type}
        if identity:
            ours[b"Identity"] = identity
        #: Bytes to write, in order; whoever writes them clears it.
        self.out: List[bytes] = self._beginning(ours)
        self._greeted = False
        self._failure: Optional[ProtocolError] = None
        self._rest = bytearray()  # read, but not a whole frame yet
        self._need = 1  # bytes in `_rest` below which there is nothing to do
        self._parts: Message = []  # the frames so far of a message that isn't complete
        self._parts_bytes = 0

    @property
    def open(self) -> bool:
        """Whether the handshake is over."""
        return self.properties is not None

    def _beginning(self, properties: Dict[bytes, bytes]) -> List[bytes]:
        """What is said before anything was heard."""
        return [GREETING, ready(properties)]

    @property
    def hint(self) -> str:
        """What it may mean if the peer closes the connection now; empty if that says nothing."""
        return "" if self.open else ", before the handshake was over: it may speak no ZeroMQ, or want keys (curve=)"

    def seal(self, plain: bytes) -> bytes:
        """Whole frames, as they are written. They have to be written in the order of the calls."""
        return plain

    def plain_bytes(self, plain: bytes, sealed_bytes: int) -> int:
        """How many of these bytes are in the first so many that `seal` made of them. A frame counts if a part of it does."""
        return sealed_bytes

    def feed(self, data: bytes) -> List[Received]:
        """Takes what was read; returns the messages and commands that are complete with it, in order.

        PING is answered, and not returned. What came before an error in the same bytes is lost with it.
        """
        if self._failure is not None:
            raise self._failure
        if self._rest or self._need > len(data):
            self._rest += data
            if len(self._rest) < self._need:
                self._check_greeting_early()
                return []
            data = bytes(self._rest)
            self._rest.clear()
        received: List[Received] = []
        try:
            at = 0
            if not self._greeted:
                at = self._greeting(data)
            if self._greeted:
                at = self._frames(data, at, received)
        except ProtocolError as error:
            self._failure = error
            self._rest.clear()
            self._parts.clear()
            raise
        if at < len(data):
            self._rest += memoryview(data)[at:]
        return received

    def _fail(self, why: str) -> ProtocolError:
        self._failure = ProtocolError(why)
        self._rest.clear()
        return self._failure

    def _check_greeting_early(self) -> None:
        # Whatever is no ZMTP 3 is refused at its first bytes; it may never send 64 of them.
        if not self._greeted:
            try:
                self._greeting(bytes(self._rest))
            except ProtocolError as error:
                raise self._fail(str(error)) from None

    def _greeting(self, data: bytes) -> int:
        """Looks at the greeting; returns how many bytes of it were taken (none if it isn't complete)."""
        if data[:1] != b"\xff"[: len(data)] or (len(data) > 9 and not data[9] & 1):
            raise ProtocolError(f"the peer speaks no ZeroMQ: it began with {data[:10]!r}")
        if len(data) > 10 and data[10] < 3:
            raise ProtocolError(f"the peer speaks ZMTP {data[10]}, which is older than 3.0")
        if len(data) < len(GREETING):
            self._need = len(GREETING)
            return 0
        theirs = data[12:32].rstrip(b"\0")
        if theirs != self.mechanism:
            raise ProtocolError(self._foreign(theirs.decode("ascii", "replace")))
        self.minor = data[11] if data[10] == 3 else 1
        self._greeted = True
        return len(GREETING)

    def _foreign(self, theirs: str) -> str:
        """Why a peer of another mechanism can't be talked to."""
        return f"the peer wants the mechanism {theirs}, and this connection has no keys for it" + (
            "; give them by connect(curve=...)" if theirs == "CURVE" else ""
        )

    def _frames(self, data: bytes, at: int, received: List[Received]) -> int:
        """Takes whole frames from `data`, beginning at `at`; returns where the first other byte is."""
        end = len(data) - 1
        parts = self._parts
        room = self.max_message_bytes - self._parts_bytes if self.properties is not None else -1
        while at < end:
            flags = data[at]
            if flags <= _MORE:
                body_at = at + 2
                size = data[at + 1]
            elif flags > 6 or flags & 5 == 5:
                raise ProtocolError(f"a frame has the flags {flags:#04x}, which mean nothing")
            elif flags & _LONG:
                body_at = at + 9
                if body_at > end + 1:
                    self._need = 9
                    return at
                size = int.from_bytes(data[at + 1 : body_at], "big")
            else:
                body_at = at + 2
                size = data[at + 1]
            if size > room or flags & _COMMAND:
                self._check_size(flags, size)
            body_end = body_at + size
            if body_end > end + 1:
                self._need = body_end - at
                return at
            at = body_end
            if flags & _COMMAND:
                self._command(data[body_at:body_end], received)
                room = self.max_message_bytes - self._parts_bytes
                continue
            parts.append(data[body_at:body_end])
            if flags & _MORE:
                if len(parts) >= self.max_frames:
                    raise ProtocolError(f"a message has more than {self.max_frames} frames")
                self._parts_bytes += size
                room -= size
            else:
                received.append(parts)
                self._parts = parts = []
                room += self._parts_bytes
                self._parts_bytes = 0
        self._need = 2
        return at

    def _check_size(self, flags: int, size: int) -> None:
        """Whether a frame may be so long, or may come at all."""
        if flags & _COMMAND:
            if size > COMMAND_MAX_BYTES:
                raise ProtocolError(f"a command of {size} bytes is longer than {COMMAND_MAX_BYTES}")
        elif self.properties is None:
            raise ProtocolError("the peer sent a message before its READY")
        else:
            raise ProtocolError(f"a message has more than {self.max_message_bytes} bytes")

    def _command(self, content: bytes, received: List[Received]) -> None:
        name_end = 1 + content[0] if content else 0
        if name_end < 2 or name_end > len(content):
            raise ProtocolError("a command has no name")
        name, body = content[1:name_end], content[name_end:]
        if name == b"ERROR":
            reason = body[1:] if body else b""
            raise ProtocolError(f"the peer refuses: {reason[:200].decode('utf-8', 'replace')}")
        if self.properties is None:
            if name != b"READY":
                raise ProtocolError(f"the peer sent {name[:20]!r} instead of READY")
            properties = properties_of(body)
            theirs = properties.get(b"socket-type", b"")
            if theirs not in PARTNERS[self.socket_type]:
                raise ProtocolError(
                    f"the peer is a {theirs[:20].decode('ascii', 'replace') or 'socket without a type'},"
                    f" and a {self.socket_type.decode()} can't talk to it"
                )
            self.properties = properties
        elif name == b"PING":
            if len(body) < 2:
                raise ProtocolError("a PING is cut off")
            self.out.append(self.seal(command(b"PONG", body[2 : 2 + CONTEXT_MAX_BYTES])))
            return
        received.append(Command(name, body))

    def subscription(self, prefix: bytes, cancel: bool = False) -> bytes:
        """A subscription to what begins with `prefix`, or its end, as this peer understands it."""
        if self.minor >= 1:
            return command(b"CANCEL" if cancel else b"SUBSCRIBE", prefix)
        return frame((b"\0" if cancel else b"\1") + prefix)


def subscribed_to(received: Received) -> Optional[Tuple[bool, bytes]]:
    """If this is a subscription (True) or its end (False): that, and the prefix. Else None."""
    if isinstance(received, Command):
        if received.name in (b"SUBSCRIBE", b"CANCEL"):
            return received.name == b"SUBSCRIBE", received.body
    elif len(received) == 1 and received[0][:1] in (b"\0", b"\1"):
        return received[0][:1] == b"\1", received[0][1:]
    return None
