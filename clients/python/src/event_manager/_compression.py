"""Bodies that are compressed: the header `content-encoding` says how."""

from __future__ import annotations

import importlib
import zlib
from typing import Any, Callable, Dict

from .errors import DecodeError, InvalidArgument, Missing

#: No body is longer than this when it is decompressed.
MAX_BYTES = 64 << 20


def compressor(name: str) -> Callable[[bytes], bytes]:
    """A function that compresses; Missing if a package is needed for that."""
    if name == "deflate":
        return lambda data: zlib.compress(data, 6)
    if name == "zstd":
        module = _zstd()
        return lambda data: bytes(module.compress(data))
    raise InvalidArgument(f"compression is 'deflate' or 'zstd', not {name!r}; nothing was sent")


def decompress(name: str, data: bytes, max_bytes: int = MAX_BYTES) -> bytes:
    """The body; DecodeError if it isn't one, or longer than `max_bytes`."""
    decode = _DECODERS.get(name.strip().lower())
    if decode is None:
        raise DecodeError(f"the body has the content-encoding {name[:40]!r}, which isn't known; mend its sender")
    body, whole = decode(data, max_bytes)
    if len(body) > max_bytes:
        raise DecodeError(f"the body has more than {max_bytes} bytes when it is decompressed; send it in parts")
    if not whole:
        raise DecodeError(f"the body is cut off, or something is behind its end ({name}); mend its sender")
    return body


def _zstd() -> Any:
    for name in ("compression.zstd", "zstandard"):  # The first is in Python 3.14.
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise Missing("zstandard", "zstd", "the compression zstd")


def _identity(data: bytes, _: int) -> "tuple[bytes, bool]":
    return data, True


def _deflate(data: bytes, max_bytes: int) -> "tuple[bytes, bool]":
    stream = zlib.decompressobj()
    try:
        body = stream.decompress(data, max_bytes + 1)
    except zlib.error as error:
        raise DecodeError(f"the body can't be decompressed: {error}; mend its sender") from None
    return body, len(body) > max_bytes or (stream.eof and not stream.unused_data)


def _unzstd(data: bytes, max_bytes: int) -> "tuple[bytes, bool]":
    module = _zstd()
    try:
        if hasattr(module, "frame_content_size"):
            return _unzstandard(module, data, max_bytes)
        stream = module.ZstdDecompressor()
        body = stream.decompress(data, max_bytes + 1)
        return body, len(body) > max_bytes or (stream.eof and not stream.unused_data)
    except (module.ZstdError, EOFError) as error:
        raise DecodeError(f"the body can't be decompressed: {error}; mend its sender") from None


def _unzstandard(module: Any, data: bytes, max_bytes: int) -> "tuple[bytes, bool]":
    stream = module.ZstdDecompressor(max_window_size=max(1024, min(max_bytes, 64 << 20))).decompressobj()
    parts, size, at = [], 0, 0
    # In small steps, because one can't limit what comes out of a step: 256 bytes are at most 64 blocks of 128 KiB.
    while at < len(data) and size <= max_bytes and not stream.eof:
        part = stream.decompress(data[at : at + 256])
        parts.append(part)
        size += len(part)
        at += 256
    return b"".join(parts), size > max_bytes or (stream.eof and not stream.unused_data and at >= len(data))


_DECODERS: Dict[str, Callable[[bytes, int], "tuple[bytes, bool]"]] = {
    "deflate": _deflate,
    "zstd": _unzstd,
    "identity": _identity,
}
