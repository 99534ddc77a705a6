"""Endpoints such as `tcp://localhost:5101` and `ipc:///run/em.sock`."""

from __future__ import annotations

import socket
from typing import Any, List, NamedTuple, Tuple

from .errors import InvalidArgument

_LOCAL = {"localhost", "127.0.0.1", "::1", "0.0.0.0", "*", "::"}


#: A local socket's path; longer ones don't fit into its address.
_PATH_MAX_BYTES = 107


class Endpoint(NamedTuple):
    """A TCP host and port, or a local socket's path (then the port is 0)."""

    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return "ipc://" + self.path
        return f"tcp://[{self.host}]:{self.port}" if ":" in self.host else f"tcp://{self.host}:{self.port}"

    def reached_by(self, other: "Endpoint") -> "Endpoint":
        """This endpoint, as the daemon tells it, for a client that reaches the daemon at `other`.

        A daemon that calls itself `localhost` is on the machine of `other`.
        """
        if self.path or other.path or self.host not in _LOCAL or other.host in _LOCAL:
            return self
        return self._replace(host=other.host)

    def sockets(self) -> List[Tuple[int, Any]]:
        """Address families and addresses to try, in this order. It asks the resolver, which may wait."""
        if self.path:
            path = "\0" + self.path[1:] if self.path.startswith("@") else self.path
            return [(socket.AF_UNIX, path)]
        host = "localhost" if self.host in ("*", "0.0.0.0", "::") else self.host
        # As bytes, because for a text Python loads its tables of Unicode, which takes 5 ms.
        found = socket.getaddrinfo(host.encode() if host.isascii() else host, self.port, type=socket.SOCK_STREAM)
        # Daemons listen on IPv4 unless told otherwise.
        found.sort(key=lambda each: each[0] != socket.AF_INET)
        return [(each[0], each[4]) for each in found]


def parse(text: str) -> Endpoint:
    """Reads an endpoint; InvalidArgument if it is none."""
    if not isinstance(text, str):
        raise InvalidArgument(f"an address is text such as tcp://HOST:PORT, not {text!r}")
    if text.startswith("ipc://") and 6 < len(text) and len(text.encode(errors="replace")) <= 6 + _PATH_MAX_BYTES:
        return Endpoint("", 0, text[6:])
    if text.startswith("tcp://"):
        host, colon, port = text[6:].rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        if colon and host and not set(host) & set("[]/ ") and port.isascii() and port.isdigit() and 0 < int(port) < 65536:
            return Endpoint(host, int(port))
    raise InvalidArgument(f"{text!r} is no address; write tcp://HOST:PORT or ipc://PATH")
