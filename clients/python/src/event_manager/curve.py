"""Keys for encrypted connections: the mechanism CURVE of ZeroMQ, which needs the extra `curve` (PyNaCl).

    hub = event_manager.connect(curve=Curve.load("billing.key_secret", server_key="server.key"))

The daemon has to offer CURVE, and to know this client's public key: docs/operations.md, "By key".
"""

from __future__ import annotations

import binascii
import logging
import os
from typing import TYPE_CHECKING, Any, Dict, NoReturn, Optional, Tuple, Union

from ._zmtp import ProtocolError
from .errors import InvalidArgument, Missing

if TYPE_CHECKING:
    from ._zmtp import Peer

log = logging.getLogger("event_manager")

#: A key: 32 bytes, or text: 40 characters of Z85, 64 of hex, 43 or 44 of base64.
Key = Union[str, bytes]
Path = Union[str, "os.PathLike[str]"]

#: In the environment: the file with this client's keys; the daemon's public key, or its file.
KEY_VARIABLE, SERVER_KEY_VARIABLE = "EVENT_MANAGER_KEY", "EVENT_MANAGER_SERVER_KEY"

_Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_DIGITS = {digit: value for value, digit in enumerate(_Z85)}
#: No certificate is nearly as large.
_FILE_BYTES_MAX = 64 << 10
#: A text with one of these may be a key with a mistake in it.
_NOT_IN_PATHS = set("<>()[]{}@%$#&*?!^=")


def to_z85(key: bytes) -> str:
    """A key as ZeroMQ writes it."""
    words = [int.from_bytes(key[at : at + 4], "big") for at in range(0, len(key), 4)]
    return "".join(_Z85[word // 85**power % 85] for word in words for power in (4, 3, 2, 1, 0))


def _from_z85(text: str) -> bytes:
    words = []
    for at in range(0, len(text), 5):
        word = 0
        for digit in text[at : at + 5]:
            word = word * 85 + _DIGITS[digit]
        words.append(word.to_bytes(4, "big"))
    return b"".join(words)


def parse_key(value: object) -> Optional[bytes]:
    """A key's 32 bytes, in any of its forms; None if it is none."""
    if isinstance(value, (bytes, bytearray)):
        if len(value) == 32:
            return bytes(value)
        value = value.decode("latin-1")
    if not isinstance(value, str) or not value.isascii():
        return None
    try:
        if len(value) == 40:
            key = _from_z85(value)
        elif len(value) == 64:
            key = binascii.unhexlify(value)
        elif len(value) == 44 or (len(value) == 43 and "=" not in value):
            key = binascii.a2b_base64(value.ljust(44, "="))
        else:
            return None
    except (KeyError, OverflowError, ValueError):
        return None
    return key if len(key) == 32 else None


def read_certificate(path: Path) -> Tuple[Optional[bytes], Optional[bytes]]:
    """The public and the secret key in a certificate's file, as pyzmq and czmq write them; one of both may be missing."""
    where = os.fspath(path)
    if (parse_key(where) or set(where) & _NOT_IN_PATHS) and not os.path.exists(where):
        # It isn't shown, because it may be a secret.
        raise InvalidArgument("the path of a file of keys is wanted, and this is no file; it may be a key itself; nothing was sent")
    try:
        with open(where, "rb") as file:
            lines = file.read(_FILE_BYTES_MAX).decode("utf-8", "replace").splitlines()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise InvalidArgument(f"the keys in {where} can't be read: {why}; nothing was sent; name another file") from None
    found: Dict[str, bytes] = {}
    for number, line in enumerate(lines, 1):
        name, equals, text = line.partition("=")  # the first: keys have some too
        name, text = name.strip(), text.strip()
        if not equals or name not in ("public-key", "secret-key"):
            continue
        key = parse_key(text[1:-1]) if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else None
        if key is None:  # It isn't shown, because it may be nearly a secret.
            raise InvalidArgument(
                f"{where}, line {number}: {name} is not 40 characters of Z85, 64 of hex or 44 of base64, in quotes; nothing was sent"
            )
        found.setdefault(name, key)
    if not found:
        raise InvalidArgument(f'{where} has no line public-key = "...", so it is no certificate; nothing was sent; name another file')
    return found.get("public-key"), found.get("secret-key")


def _warn_of_mode(path: Path) -> None:
    """Says so if others than its owner can read a secret."""
    if os.name != "posix":
        return
    found = os.stat(path)
    others = 0o077 if found.st_uid != 0 else 0o037  # A file of root may be readable by a group.
    if found.st_mode & others:
        log.warning("%s: others may read this secret (mode %04o); run chmod 600 %s", path, found.st_mode & 0o7777, path)


class Curve:
    """The daemon's public key, and this client's keys.

    Keys are 32 bytes, or text as Z85, hex or base64. `server_key` may also be a file's path. The public key follows from the secret
    one; if both are missing, a new pair is made.
    """

    def __init__(self, server_key: "Union[Key, os.PathLike[str]]", public_key: Optional[Key] = None, secret_key: Optional[Key] = None) -> None:
        self._server = _server_key(server_key)
        self._secret = None if secret_key is None else _needed(secret_key, "secret_key")
        self._public = None if public_key is None else _needed(public_key, "public_key")
        if self._secret is None and self._public is not None:
            raise InvalidArgument("public_key needs its secret_key: give both, or only the secret one; nothing was sent")
        self._ready = False

    @classmethod
    def load(cls, key: Path, server_key: "Union[Key, os.PathLike[str]]") -> "Curve":
        """This client's keys from a file such as pyzmq's and czmq's `NAME.key_secret`; the daemon's from a file, or as they are."""
        public, secret = read_certificate(key)
        if secret is None:
            raise InvalidArgument(f"{os.fspath(key)} has no line secret-key = \"...\"; nothing was sent; name the file of the secret key, NAME.key_secret")
        _warn_of_mode(key)
        return cls(server_key, public, secret)

    @classmethod
    def from_environment(cls) -> "Curve":
        """What EVENT_MANAGER_SERVER_KEY (a key or a file) and EVENT_MANAGER_KEY (a file) name."""
        key, server_key = (os.environ.get(each) for each in (KEY_VARIABLE, SERVER_KEY_VARIABLE))
        if not server_key:
            raise InvalidArgument(f"{SERVER_KEY_VARIABLE} has to name the daemon's public key, or its file; nothing was sent; set it, or give curve=")
        return cls.load(key, server_key) if key else cls(server_key)

    @property
    def server_key(self) -> str:
        """The daemon's public key, as Z85."""
        return to_z85(self._server)

    @property
    def public_key(self) -> str:
        """This client's public key, as Z85: what the daemon has to know. Missing without the extra."""
        self.prepare()
        return to_z85(self._public or b"")

    def prepare(self) -> None:
        """Sees to it that the keys can be used. Missing if the extra isn't there; InvalidArgument if they don't belong together."""
        if self._ready:
            return
        curve = _module()
        if self._secret is None:
            self._public, self._secret = curve.new_pair()
        public = curve.public_of(self._secret)
        if self._public not in (None, public):
            raise InvalidArgument("the public key does not belong to the secret one; nothing was sent; take both from one file")
        self._public = public
        try:
            self.new_peer(b"DEALER")
        except ProtocolError:
            raise InvalidArgument("the server key is a number that is no key; nothing was sent; take the daemon's public key") from None
        self._ready = True

    def new_peer(self, socket_type: bytes) -> "Peer":
        """Our end of a new connection."""
        if self._public is None or self._secret is None:
            self.prepare()
        peer: Peer = _module().CurvePeer(socket_type, server=self._server, public=self._public, secret=self._secret)
        return peer

    def new_answerer(self, socket_type: bytes) -> "Peer":
        """Our end of a connection that the daemon makes to us, with its key and ours."""
        self.prepare()
        _module()
        from ._curve_server import CurveServerPeer

        assert self._public is not None and self._secret is not None
        return CurveServerPeer(socket_type, client=self._server, public=self._public, secret=self._secret)

    def __repr__(self) -> str:
        public = None if self._public is None else to_z85(self._public)
        return f"Curve(server_key={self.server_key!r}, public_key={public!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("keys are not pickled, because one is a secret; give the other process their file")


def write_certificate(directory: Path, name: str) -> Tuple[str, str]:
    """Makes new keys, and files of them as pyzmq does: NAME.key_secret, which only its owner can read, and NAME.key. Their paths."""
    public, secret = _module().new_pair()
    lines = [f'metadata\ncurve\n    public-key = "{to_z85(public)}"\n']
    lines += [lines[0] + f'    secret-key = "{to_z85(secret)}"\n']
    paths = (os.path.join(directory, f"{name}.key_secret"), os.path.join(directory, f"{name}.key"))
    for path, text, mode in zip(paths, reversed(lines), (0o600, 0o644)):
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
            file.write(text)
    return paths


def _module() -> Any:
    try:
        from . import _curve
    except ImportError:
        raise Missing("PyNaCl", "curve", "an encrypted connection") from None
    return _curve


def _server_key(value: "Union[Key, os.PathLike[str]]") -> bytes:
    """The daemon's public key, from a key or a file."""
    if isinstance(value, os.PathLike) or (isinstance(value, str) and os.path.isfile(value)):
        public, secret = read_certificate(value)
        if public is None and secret is not None:
            public = _module().public_of(secret)
        assert public is not None
        return public
    key = parse_key(value)
    if key is not None:
        return key
    if isinstance(value, str) and ("/" in value or value.endswith((".key", ".key_secret"))) and len(value) < 1000:
        read_certificate(value)  # which says that there is no such file
    return _needed(value, "server_key")


def _needed(value: object, name: str) -> bytes:
    """A key; the error doesn't show it, because it may be a secret."""
    key = parse_key(value)
    if key is None:
        raise InvalidArgument(
            f"{name} is 32 bytes, 40 characters of Z85, 64 of hex or 44 of base64"
            f"{', or the path of a file' if name == 'server_key' else ''}; nothing was sent"
        )
    return key


__all__ = ["Curve", "Key", "KEY_VARIABLE", "SERVER_KEY_VARIABLE", "write_certificate"]
