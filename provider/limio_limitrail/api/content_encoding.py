# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Decode a body's content encodings within a bound, however much a few compressed bytes may stand for."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

from msgspec.structs import replace

from limio_limitrail.api.errors import ProtocolError
from limio_limitrail.api.request_context import RequestContext
from limio_limitrail.api.transport_errors import too_large

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_PIECE = 1 << 16
"""Bytes that are decoded at a time. What follows the end of a member is copied once a member, so that this bounds that, too."""

_UNSUPPORTED = frozenset({"br", "compress", "x-compress"})
"""Encodings that are neither requested nor decoded here."""

_MAX_ENCODINGS = 5
"""Encodings on top of one another; nobody needs more than one."""


class BodyTooLargeError(Exception):
    """A body is larger than the bound."""


class _BrokenError(Exception):
    """A body is not in the format of the decompressor."""


def decode_body(
    content: bytes,
    content_encoding: str | None,
    context: RequestContext,
    *,
    max_bytes: int,
    check_time: Callable[[], object] = lambda: None,
) -> bytes:
    """Undo the encodings that a Content-Encoding header names; unknown ones are ignored.

    A body that ends within its encoding is decoded as far as it goes: its parser detects that it is incomplete. What follows the
    end of gzip data and is none is left out, as other clients do.

    :param max_bytes: the bound of the body, and of each step of decoding it.
    :param check_time: called every few milliseconds; what it raises ends the decoding.
    :raises ResponseTooLargeError: it is larger than the bound.
    :raises ProtocolError: it is not encoded so.
    """
    # Others are ignored, because some servers put a charset there.
    names = (name.strip().lower() for name in (content_encoding or "").split(","))
    encodings = [name for name in names if name in _DECODERS or name in _UNSUPPORTED]
    if len(encodings) > _MAX_ENCODINGS:
        reason = f"expected a body in one content encoding, found {len(encodings)} on top of one another"
        raise ProtocolError(replace(context, reason=reason))
    for name in reversed(encodings):
        if name not in _DECODERS:
            reason = f"expected a body in the content encoding gzip or deflate, found {name}"
            raise ProtocolError(replace(context, reason=reason))
        try:
            content = _DECODERS[name](content, max_bytes, check_time)
        except _BrokenError:
            reason = f"expected a body in the content encoding {name}, found one that is not"
            raise ProtocolError(replace(context, reason=reason)) from None
        except BodyTooLargeError:
            raise too_large(context, max_bytes=max_bytes) from None
    return content


def _decompressed(
    content: bytes, max_bytes: int, check_time: Callable[[], object], *, new: Callable[[], Any], must_end: bool = False
) -> bytes:
    """Decode gzip, zlib, deflate or zstd data, which may have several members; `must_end` refuses data that is cut off."""
    whole = memoryview(content)
    pieces: list[bytes] = []
    room = max_bytes + 1
    decompressor, ended = None, False
    for start in range(0, len(content), _PIECE):
        check_time()
        piece = bytes(whole[start : start + _PIECE])
        while piece:
            if decompressor is None or decompressor.eof:
                ended, decompressor = decompressor is not None, new()
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


def _deflate(content: bytes, max_bytes: int, check_time: Callable[[], object]) -> bytes:
    """Decode deflate: the standard means the format of zlib, and some servers send the bare one."""
    try:
        return _decompressed(content, max_bytes, check_time, new=zlib.decompressobj)
    except _BrokenError:
        # It has neither a header nor a checksum: much that is none can be taken for it, but does not come to an end.
        new = partial(zlib.decompressobj, -zlib.MAX_WBITS)
        return _decompressed(content, max_bytes, check_time, new=new, must_end=True)


_gzip = partial(_decompressed, new=partial(zlib.decompressobj, 16 + zlib.MAX_WBITS))
_DECODERS: dict[str, Callable[[bytes, int, Callable[[], object]], bytes]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "zstd": partial(_decompressed, new=zstd.ZstdDecompressor),
}
