"""One thread that waits for sockets and times, and connections that come back by themselves."""

from __future__ import annotations

import errno
import heapq
import itertools
import logging
import os
import selectors
import socket
import struct
import sys
import threading
import time
from collections import deque
from typing import Any, Callable, Deque, List, Optional, Protocol, Tuple

from ._address import Endpoint
from ._zmtp import Peer, ProtocolError, Received, ping

log = logging.getLogger("event_manager")

#: How much is read, and at most written together, at a time.
READ_BYTES = 256 << 10
WRITE_BYTES = 64 << 10
#: Seconds until a TCP connection and the handshake on it have to be there.
CONNECT_SECONDS = 5.0
#: Between two attempts to connect: it doubles, and each is between half of it and all of it.
BACKOFF_SECONDS = (0.05, 1.0)
#: A peer that is silent for so long gets a PING; after three times that, its connection is closed.
HEARTBEAT_SECONDS = 10.0
#: The context of such a PING; others are 8 bytes.
HEARTBEAT = b"alive"


class Timer:
    """A call at a time; `cancel` takes it back."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Optional[Callable[[], None]] = call

    def cancel(self) -> None:
        self.call = None


class Loop:
    """A thread that waits for sockets and times. Only `call_soon` and `stop` may be called from others.

    `new_peer` makes our end of a connection, for a type of socket: what speaks with a mechanism or another.
    """

    def __init__(self, name: str, new_peer: Callable[[bytes], Peer] = Peer) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._selector.register(self._wake_in, selectors.EVENT_READ, None)
        self._calls: Deque[Callable[[], None]] = deque()
        self._woken = False
        self._stopping = False
        self._timers: List[Tuple[float, int, Timer]] = []
        self._number = itertools.count()
        self.new_peer = new_peer
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def inside(self) -> bool:
        """Whether the caller is this thread."""
        return threading.get_ident() == self._thread.ident

    def call_soon(self, call: Callable[[], None]) -> None:
        """Has the thread call this; in the order of the calls."""
        self._calls.append(call)
        # The thread forgets that it is woken before it looks at the calls: none is overlooked.
        if not self._woken:
            self._woken = True
            try:
                self._wake_out.send(b"\0")
            except OSError:  # It has stopped.
                pass

    def call_later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Has the thread call this after so many seconds."""
        timer = Timer(call)
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._number), timer))
        if len(self._timers) % 1024 == 0:
            self._timers = [each for each in self._timers if each[2].call is not None]
            heapq.heapify(self._timers)
        return timer

    def watch(self, sock: socket.socket, events: int, call: Callable[[int], None]) -> None:
        """Calls when the socket is ready for one of these events (of `selectors`); 0 ends that."""
        try:
            known = self._selector.get_key(sock)
        except KeyError:
            if events:
                self._selector.register(sock, events, call)
            return
        if not events:
            self._selector.unregister(sock)
        elif known.events != events:
            self._selector.modify(sock, events, call)

    def stop(self) -> None:
        """Ends the thread after the calls that it has; waits for that, unless it is the caller."""
        self.call_soon(self._stop)
        if not self.inside:
            self._thread.join(10.0)

    def _stop(self) -> None:
        self._stopping = True

    def abandon(self) -> None:
        """In a child process: closes what was inherited. The thread isn't there."""
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        # Unregistering would tell the parent's epoll, so it is only closed.
        self._selector.close()
        self._wake_out.close()

    def _run(self) -> None:
        while not self._stopping:
            timeout = None
            if self._timers:
                # One may be for ever, which no selector can wait.
                timeout = min(max(0.0, self._timers[0][0] - time.monotonic()), 3600.0)
            for key, events in self._selector.select(timeout):
                if key.data is not None:
                    self._safely(key.data, events)
                    continue
                try:
                    self._wake_in.recv(64)
                except BlockingIOError:
                    pass
            self._woken = False
            for _ in range(len(self._calls)):
                self._safely(self._calls.popleft())
            if self._calls:
                self.call_soon(lambda: None)
            now = time.monotonic()
            while self._timers and self._timers[0][0] <= now:
                timer = heapq.heappop(self._timers)[2]
                if timer.call is not None:
                    self._safely(timer.call)
        self._selector.close()
        self._wake_in.close()
        self._wake_out.close()

    @staticmethod
    def _safely(call: Callable[..., None], *arguments: Any) -> None:
        try:
            call(*arguments)
        except Exception:  # One connection's fault must not end all others.
            log.exception("an error in the input and output of a hub")


class Handler(Protocol):
    """What a connection is for. All is called by the loop's thread."""

    def opened(self) -> None:
        """The handshake is over."""

    def received(self, items: List[Received]) -> None:
        """These messages and commands came."""

    def more(self) -> bytes:
        """What is to be written next, best about `WRITE_BYTES`; nothing if there is nothing."""
        ...

    def closed(self, why: str, unsent: int) -> None:
        """The connection ended, or could not be made; it is tried again. Of what `more` returned last,
        so many bytes were not written."""


class Link:
    """A connection to an endpoint that is made again, for ever, until `close`.

    `patient`: the peer may be silent as long as its machine acknowledges TCP segments, because it may be
    too busy to read.
    """

    def __init__(self, loop: Loop, handler: Handler, socket_type: bytes, *, patient: bool = False) -> None:
        self._loop = loop
        self._handler = handler
        self._type = socket_type
        self._patient = patient
        self.endpoint: Optional[Endpoint] = None
        self.peer = loop.new_peer(socket_type)
        self._sock: Optional[socket.socket] = None
        self._connected = False
        self._candidates: List[Tuple[int, Any]] = []
        self._sending = memoryview(b"")
        self._of_handler = b""  # what that is of the handler, before it was sealed
        self._sending_bytes = 0
        self._heard = 0.0
        self._timer: Optional[Timer] = None
        self._backoff = BACKOFF_SECONDS[0]

    @property
    def open(self) -> bool:
        """Whether messages can be sent now."""
        return self._sock is not None and self.peer.open

    @property
    def local_host(self) -> str:
        """Our address on the connection, by which the peer's machine reaches us; empty if there is none now."""
        sock = self._sock
        if sock is None or not self.open:
            return ""
        return "127.0.0.1" if sock.family != socket.AF_INET else str(sock.getsockname()[0])

    def dial(self, endpoint: Endpoint) -> None:
        """Connects there from now on."""
        if endpoint == self.endpoint:
            return
        if self._sock is not None:
            self._end(f"the daemon is at {endpoint} now")
        self.endpoint = endpoint
        self._backoff = BACKOFF_SECONDS[0]
        self._schedule(0.0, self._connect)

    def close(self) -> None:
        """Ends it for good. The handler isn't told."""
        self.endpoint = None
        self._drop_socket()

    def kick(self) -> None:
        """There may be something to write."""
        if self._sock is not None and self._connected and not self._sending:
            self._write()

    def _schedule(self, seconds: float, call: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, call)

    def _connect(self) -> None:
        endpoint = self.endpoint
        if endpoint is None:
            return
        try:
            if not self._candidates:
                self._candidates = endpoint.sockets()
            family, address = self._candidates.pop(0)
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            self._retry(f"{endpoint}: {error}")
            return
        self._sock, self._connected = sock, False
        self.peer = self._loop.new_peer(self._type)
        sock.setblocking(False)
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        failure = sock.connect_ex(address)
        if failure not in (0, errno.EINPROGRESS):
            self._end(f"{endpoint}: {errno.errorcode.get(failure, failure)}")
            return
        self._schedule(CONNECT_SECONDS, lambda: self._end(f"{endpoint}: no handshake within {CONNECT_SECONDS} s"))
        self._loop.watch(sock, selectors.EVENT_WRITE, self._ready)

    def _ready(self, events: int) -> None:
        sock = self._sock
        if sock is None:
            return
        if not self._connected:
            failure = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if failure:
                self._end(f"{self.endpoint}: {errno.errorcode.get(failure, failure)}")
                return
            self._connected = True
            self._write()
            return
        if events & selectors.EVENT_READ:
            self._read(sock)
        if events & selectors.EVENT_WRITE and self._sock is sock:
            self._write()

    def _read(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(f"{self.endpoint}: {error.strerror or error}{self.peer.hint}")
            return
        if not data:
            self._end(f"{self.endpoint} closed the connection{self.peer.hint}")
            return
        self._heard = time.monotonic()
        was_open = self.peer.open
        try:
            items = self.peer.feed(data)
        except ProtocolError as error:
            self._end(f"{self.endpoint}: {error}")
            return
        if not was_open and self.peer.open:
            del items[0]  # READY
            self._backoff = BACKOFF_SECONDS[0]
            self._candidates.clear()
            self._schedule(HEARTBEAT_SECONDS, self._beat)
            self._handler.opened()
        if items and self._sock is sock:
            self._handler.received(items)
        if self._sock is sock and not self._sending:
            self._write()

    def _write(self) -> None:
        sock = self._sock
        if sock is None:
            return
        try:
            while True:
                if not self._sending:
                    if self.peer.out:
                        chunk, self._of_handler = b"".join(self.peer.out), b""
                        self.peer.out.clear()
                    else:
                        self._of_handler = self._handler.more() if self.peer.open else b""
                        chunk = self.peer.seal(self._of_handler)
                    if not chunk:
                        self._loop.watch(sock, selectors.EVENT_READ, self._ready)
                        return
                    self._sending = memoryview(chunk)
                    self._sending_bytes = len(chunk)
                self._sending = self._sending[sock.send(self._sending) :]
        except BlockingIOError:
            self._loop.watch(sock, selectors.EVENT_READ | selectors.EVENT_WRITE, self._ready)
        except OSError as error:
            self._end(f"{self.endpoint}: {error.strerror or error}")

    def _beat(self) -> None:
        silent = time.monotonic() - self._heard
        if silent >= 3 * HEARTBEAT_SECONDS and self.peer.minor >= 1 and not self._is_acknowledged():
            self._end(f"{self.endpoint} has been silent for {silent:.0f} s")
            return
        if silent >= HEARTBEAT_SECONDS * 0.9 and self.peer.minor >= 1 and not self.peer.out:
            self.peer.out.append(self.peer.seal(ping(HEARTBEAT)))
            self.kick()
        if self._sock is not None:
            self._schedule(HEARTBEAT_SECONDS, self._beat)

    def _is_acknowledged(self) -> bool:
        """Whether the peer's machine has acknowledged a segment lately, and that counts."""
        sock = self._sock
        if not self._patient or sock is None:
            return False
        if sock.family == getattr(socket, "AF_UNIX", None) or not sys.platform.startswith("linux"):
            return True
        # struct tcp_info: 8 bytes, then the 13th number is tcpi_last_ack_recv, in ms.
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        acknowledged: int = struct.unpack_from("=I", info, 8 + 12 * 4)[0]
        return acknowledged < 2 * HEARTBEAT_SECONDS * 1000

    def _drop_socket(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        sock, self._sock = self._sock, None
        if sock is not None:
            self._loop.watch(sock, 0, self._ready)
            sock.close()
        self._connected = False
        self._sending = memoryview(b"")

    def _end(self, why: str) -> None:
        unsent = 0
        if self._sending and self._of_handler:
            written = self._sending_bytes - len(self._sending)
            unsent = len(self._of_handler) - self.peer.plain_bytes(self._of_handler, written)
        self._drop_socket()
        self.peer = self._loop.new_peer(self._type)
        self._retry(why, unsent)

    def _retry(self, why: str, unsent: int = 0) -> None:
        if self._candidates:
            self._schedule(0.0, self._connect)
        else:
            self._schedule(self._backoff * (0.5 + os.urandom(1)[0] / 510), self._connect)
            self._backoff = min(self._backoff * 2, BACKOFF_SECONDS[1])
        self._handler.closed(why, unsent)
