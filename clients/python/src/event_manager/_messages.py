"""MessageBus messages between services, without the daemon: asking a service, and answering as one."""

from __future__ import annotations

import logging
import selectors
import socket
import struct
import threading
import time
from typing import Callable, Dict, List, Optional, Tuple

from . import _address, _zmtp
from .errors import EventManagerError, NoAnswer

log = logging.getLogger("event_manager")

Frames = List[bytes]
Reply = Callable[[Frames], None]

TOKENS = {
    "TK_SYS_ACK": 0xF0100001,
    "TK_SYS_NAK": 0xF0100002,
    "TK_EVENT_MANAGER_SUBSCRIBE": 0x00200001,
    "TK_EVENT_MANAGER_UNSUBSCRIBE": 0x00200002,
    "TK_EVENT_MANAGER_PUBLISH": 0x00200003,
    "TK_EVENT_MANAGER_KEEP_ALIVE": 0x00200004,
    "TK_EVT_EVENT": 0xF0400001,
}
#: Priorities are not looked at.
_PRIORITY = 0x0FFFFFFF


class Unreachable(NoAnswer):
    """Nobody listens there, so nothing was sent."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, may_be_taken=False)


def same_token(a: int, b: int) -> bool:
    """Whether two tokens are the same but for their priority."""
    return a & _PRIORITY == b & _PRIORITY


def read_token(frame: bytes) -> "Optional[Tuple[int, Callable[[int], bytes]]]":
    """A token, and how to write another one in the same form; None if it is none."""
    try:
        text = frame.decode("ascii")
    except UnicodeDecodeError:
        text = ""
    if text in TOKENS:
        return TOKENS[text], _named
    if text.isdigit():
        return int(text), lambda token: b"%d" % token
    try:
        if text[:2] in ("0x", "0X"):
            return int(text, 16), lambda token: b"0x%08X" % token
        group, dot, number = text.partition(".")
        if dot:
            return int(group, 16) << 20 | int(number, 16), lambda token: b"0x%08X" % token
    except ValueError:
        pass
    if len(frame) in (4, 8):
        form = "<I" if len(frame) == 4 else "<Q"
        big = form.replace("<", ">")
        little, other = struct.unpack(form, frame)[0], struct.unpack(big, frame)[0]
        # Tokens of this ecosystem have an X of 0, in the byte order that is right.
        if little >> 16 & 0xF == 0 and little <= 0xFFFFFFFF:
            return little, lambda token: struct.pack(form, token)
        return other, lambda token: struct.pack(big, token)
    return None


def _named(token: int) -> bytes:
    for name, value in TOKENS.items():
        if value == token:
            return name.encode()
    return b"0x%08X" % token


def ask(address: str, frames: Frames, timeout: float) -> Frames:
    """Asks whoever answers at this address. Unreachable or NoAnswer if there is no answer."""
    endpoint = _address.parse(address)
    deadline = time.monotonic() + timeout
    peer = _zmtp.Peer(b"DEALER")
    stream = None
    try:
        family, to = endpoint.sockets()[0]
        stream = socket.socket(family, socket.SOCK_STREAM)
        stream.settimeout(max(0.001, timeout))
        stream.connect(to)
    except OSError as error:
        if stream is not None:
            stream.close()
        raise Unreachable(f"nobody can be reached at {address}: {error}; nothing was sent") from error
    sent = False
    why = f"none within {timeout} s"
    with stream:
        try:
            while True:
                if peer.open and not sent:
                    sent = True
                    peer.out.append(_zmtp.message([b""] + frames))
                for data in peer.out:
                    stream.sendall(data)
                peer.out.clear()
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                stream.settimeout(left)
                data = stream.recv(1 << 16)
                if not data:
                    why = f"it closed the connection{peer.hint}"
                    break
                for item in peer.feed(data):
                    if isinstance(item, list) and sent:
                        return item[item.index(b"") + 1 :] if b"" in item[:1] else item
        except socket.timeout:
            pass
        except (OSError, _zmtp.ProtocolError) as error:
            why = str(error)
    raise NoAnswer(f"no answer from {address}: {why}; it may have got the message", may_be_taken=sent)


class Answerer:
    """Listens as a ROUTER; each message is given to `handle` with a function that answers it, in the thread that reads."""

    def __init__(self, host: str, handle: Callable[[Frames, Reply], None], new_peer: Callable[[bytes], _zmtp.Peer] = _zmtp.Peer) -> None:
        self._handle = handle
        self._new_peer = new_peer
        self._selector = selectors.DefaultSelector()
        self._socket = socket.create_server((host, 0))
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]
        self._peers: Dict[socket.socket, Tuple[_zmtp.Peer, threading.Lock]] = {}
        self._wake, self._waked = socket.socketpair()
        self._selector.register(self._socket, selectors.EVENT_READ)
        self._selector.register(self._waked, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="event-manager-answers", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends all connections."""
        self._wake.close()
        if threading.current_thread() is not self._thread:
            self._thread.join(5.0)

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._waked:
                    self._end()
                    return
                if key.fileobj is self._socket:
                    self._accept()
                else:
                    assert isinstance(key.fileobj, socket.socket)
                    self._read(key.fileobj)

    def _end(self) -> None:
        for each in list(self._peers):
            self._drop(each)
        self._selector.close()
        self._socket.close()
        self._waked.close()

    def _accept(self) -> None:
        try:
            stream, _ = self._socket.accept()
        except OSError:
            return
        stream.settimeout(5.0)  # for writing; it is read only when there is something
        self._peers[stream] = (self._new_peer(b"ROUTER"), threading.Lock())
        self._selector.register(stream, selectors.EVENT_READ)

    def _drop(self, stream: socket.socket) -> None:
        if self._peers.pop(stream, None) is not None:
            self._selector.unregister(stream)
        stream.close()

    def _read(self, stream: socket.socket) -> None:
        peer, lock = self._peers[stream]
        try:
            data = stream.recv(1 << 16)
            if not data:
                self._drop(stream)
                return
            with lock:
                items = peer.feed(data)
                for out in peer.out:
                    stream.sendall(out)
                peer.out.clear()
        except (OSError, _zmtp.ProtocolError) as error:
            log.warning("a connection to this service ends: %s", error)
            self._drop(stream)
            return
        for item in items:
            if isinstance(item, list):
                self._take(item, stream, peer, lock)

    def _take(self, frames: Frames, stream: socket.socket, peer: _zmtp.Peer, lock: threading.Lock) -> None:
        envelope: Frames = []
        if read_token(frames[0]) is None and b"" in frames:
            at = frames.index(b"") + 1
            envelope, frames = frames[:at], frames[at:]
        answered = threading.Lock()

        def reply(answer: Frames) -> None:
            if not answered.acquire(blocking=False):
                return
            try:
                with lock:
                    stream.sendall(peer.seal(_zmtp.message(envelope + answer)))
            except OSError as error:
                raise NoAnswer(f"who asked is gone: {error}", may_be_taken=False) from error

        if not frames:
            return
        try:
            self._handle(frames, reply)
        except EventManagerError as error:
            log.warning("not answered: %s", error)
        except Exception:
            log.exception("a message was not understood")
