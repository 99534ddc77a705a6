"""Keys for encrypted connections: the mechanism CURVE of ZMTP, which needs the extra `curve` (pyzmq with libsodium).

Daemons don't have it yet, so `connect(curve=...)` says so, and sends nothing.
"""

from __future__ import annotations

import importlib
from typing import Optional, Union

from .errors import InvalidArgument, Missing, Unsupported

#: A key: 32 bytes, or 40 characters of Z85.
Key = Union[str, bytes]

_Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"


def _key(name: str, value: Key) -> str:
    """A key in Z85; the error doesn't show it, because it may be a secret."""
    if isinstance(value, bytes) and len(value) == 40:
        value = value.decode("ascii", "replace")
    if isinstance(value, bytes) and len(value) == 32:
        words = [int.from_bytes(value[at : at + 4], "big") for at in range(0, 32, 4)]
        return "".join(_Z85[word // 85**power % 85] for word in words for power in (4, 3, 2, 1, 0))
    if isinstance(value, str) and len(value) == 40 and not set(value) - set(_Z85):
        return value
    raise InvalidArgument(f"{name} is a key of 32 bytes, or 40 characters of Z85, as zmq.curve_keypair() makes them")


class Curve:
    """The daemon's public key, and this client's pair of keys; without one, a new pair is made for each connection."""

    def __init__(self, server_key: Key, public_key: Optional[Key] = None, secret_key: Optional[Key] = None) -> None:
        if (public_key is None) != (secret_key is None):
            raise InvalidArgument("public_key and secret_key belong together: give both, or none")
        self.server_key = _key("server_key", server_key)
        self.public_key = None if public_key is None else _key("public_key", public_key)
        self.secret_key = None if secret_key is None else _key("secret_key", secret_key)

    def __repr__(self) -> str:
        return f"Curve(server_key={self.server_key!r}, public_key={self.public_key!r})"

    def refuse(self) -> None:
        """Raises Missing if the extra isn't there, else Unsupported."""
        try:
            zmq = importlib.import_module("zmq")
        except ImportError:
            raise Missing("pyzmq", "curve", "an encrypted connection") from None
        if not zmq.has("curve"):
            raise Missing("pyzmq with libsodium", "curve", "an encrypted connection")
        raise Unsupported(
            "event managers have no CURVE yet, so there can be no encrypted connection; nothing was sent; "
            "leave curve= out and go through a tunnel (ssh, WireGuard), or use a daemon and a client that have it"
        )


__all__ = ["Curve", "Key"]
