# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Decode a body's content encodings within a bound, however much a few compressed bytes may stand for."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from typing import Protocol

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_PIECE = 1 << 16
"""Bytes that are decoded at a time. What follows the end of a member is copied once a member, so that this bounds that, too."""

_UNSUPPORTED = frozenset({"br", "compress", "x-compress"})
"""Encodings that are not asked for and not undone here."""

_MAX_ENCODINGS = 5
"""Encodings on top of one another; nobody needs more than one."""


class BodyTooLargeError(Exception):
    """A body is larger than the bound."""


class BodyEncodingError(Exception):
    """A body cannot be decoded as its headers say. The text says why."""


class _BrokenError(Exception):
    """What came is not in the format of the decompressor."""


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def decode_body(
    content: bytes, content_encoding: str, *, max_bytes: int, check_time: Callable[[], object] = lambda: None
) -> bytes:
    """Undo the encodings that a Content-Encoding header names; unknown ones are ignored.

    A body that ends within its encoding is decoded as far as it goes: whoever parses it sees that it is not whole. What follows
    the end of gzip data and is none is left out, as other clients do.

    :param content: the body as it came.
    :param content_encoding: the header's value.
    :param max_bytes: the bound, for the body and for each step on the way to it.
    :param check_time: called every few milliseconds; what it raises ends the decoding.
    :raises BodyTooLargeError: it is larger than the bound.
    :raises BodyEncodingError: it is not encoded so.
    """
    encodings = _encodings(content_encoding)
    if len(encodings) > _MAX_ENCODINGS:
        raise BodyEncodingError(f"expected a body in one content encoding, found {len(encodings)} on top of one another")
    for name in reversed(encodings):
        if name not in _DECODERS:
            raise BodyEncodingError(f"expected a body in the content encoding gzip or deflate, found {name}")
        try:
            content = _DECODERS[name](content, max_bytes, check_time)
        except _BrokenError:
            raise BodyEncodingError(f"expected a body in the content encoding {name}, found one that is not") from None
    return content


def _encodings(content_encoding: str) -> list[str]:
    """Return the known encodings. Others are ignored, because some servers put a charset there."""
    names = (name.strip().lower() for name in content_encoding.split(","))
    return [name for name in names if name in _DECODERS or name in _UNSUPPORTED]


def _decompressed(
    content: bytes,
    make: Callable[[], _Decompressor],
    max_bytes: int,
    check_time: Callable[[], object],
    *,
    must_end: bool = False,
) -> bytes:
    whole = memoryview(content)
    pieces: list[bytes] = []
    room = max_bytes + 1
    decompressor: _Decompressor | None = None
    ended = False
    for start in range(0, len(content), _PIECE):
        check_time()
        piece = bytes(whole[start : start + _PIECE])
        while piece:
            if decompressor is None or decompressor.eof:
                ended, decompressor = decompressor is not None, make()
            try:
                found = decompressor.decompress(piece, room)
            except (zlib.error, zstd.ZstdError, EOFError):
                if ended:
                    return b"".join(pieces)
                raise _BrokenError from None
            pieces.append(found)
            room -= len(found)
            if room <= 0:
                raise BodyTooLargeError
            piece = decompressor.unused_data if decompressor.eof else b""
    if must_end and not (decompressor and decompressor.eof):
        raise _BrokenError
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _gzip(content: bytes, max_bytes: int, check_time: Callable[[], object]) -> bytes:
    return _decompressed(content, lambda: zlib.decompressobj(16 + zlib.MAX_WBITS), max_bytes, check_time)


def _deflate(content: bytes, max_bytes: int, check_time: Callable[[], object]) -> bytes:
    """Undo deflate: the standard means the format of zlib, and some servers send the bare one."""
    try:
        return _decompressed(content, zlib.decompressobj, max_bytes, check_time)
    except _BrokenError:
        # It has neither a head nor a sum: much that is none can be taken for it, but does not come to an end.
        return _decompressed(content, lambda: zlib.decompressobj(-zlib.MAX_WBITS), max_bytes, check_time, must_end=True)


def _zstd(content: bytes, max_bytes: int, check_time: Callable[[], object]) -> bytes:
    return _decompressed(content, zstd.ZstdDecompressor, max_bytes, check_time)


_DECODERS: dict[str, Callable[[bytes, int, Callable[[], object]], bytes]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "zstd": _zstd,
}
