# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Decode a text in each way in which it may be encoded: escaped, escaped twice, in Base64, in hexadecimal."""

from __future__ import annotations

import base64
import binascii
import html
import re
import string
from collections.abc import Iterator, Sequence

import msgspec

from limio_limitrail.lazy import lazy_pattern

_MAX_LAYERS = 8
"""Escapes within escapes that are undone."""

_URL = r"%u[0-9a-f]{4} | %[0-9a-f]{2}"
_PROGRAM = r"(?-i:\\U)000[0-9a-f]{5} | \\u\{[0-9a-f]{1,6}\} | \\u[0-9a-f]{4} | \\x[0-9a-f]{2} | \\[0-7]{3} | \\."
_HTML = r"&(?:\#0*[0-9]{1,7} | \#x0*[0-9a-f]{1,6} | [a-z][a-z0-9]{1,31});?"
_UNSEEN = r"[\x00-\x08\x0a-\x1f\x7f-\x9f\xad\u200b-\u200f\u2028\u2029\u2060\ufeff\ufffd]"


def _escapes(*kinds: str) -> re.Pattern[str]:
    return lazy_pattern(" | ".join(kinds), re.VERBOSE | re.IGNORECASE | re.DOTALL)


_ESCAPE = _escapes(_URL, _PROGRAM, _HTML, _UNSEEN)
"""Escapes of a character; line breaks and invisible characters stand for none."""

_ESCAPE_BUT_BACKSLASH = _escapes(_URL, _HTML, _UNSEEN)
"""Before or behind a secret, or as a part of it, a backslash may be no escape: of a folder, of a domain's user."""

_SIGN = lazy_pattern(r"[%\\&\x00-\x08\x0a-\x1f\x7f-\x9f\xad\u200b-\u200f\u2028\u2029\u2060\ufeff\ufffd]")
"""A text without any of these has no escape, which is quicker to find out."""

_ALPHABET = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
_BASE64 = lazy_pattern(r"[A-Za-z0-9+/_-]{8,}")
_HEX = lazy_pattern(r"(?:[0-9a-fA-F]{2}[\s:-]?){6,}[0-9a-fA-F]?")
_READABLE = lazy_pattern(rb"[\x20-\x7e]{6}")
_HEX_DIGITS = lazy_pattern(r"[0-9a-fA-F]")


_FIRST = "".join(sign for value, sign in enumerate(_ALPHABET) if 0x20 <= value << 2 < 0x80)
_SECOND = "".join(sign for value, sign in enumerate(_ALPHABET) if 0x2 <= value & 0xF < 0x8)
_THIRD = "".join(sign for value, sign in enumerate(_ALPHABET) if value & 0x3 < 0x2)
_OUTER = f"[{_FIRST}][AQgw][AB][A-Za-z0-9+/_-]"
_INNER = f"A[C-H][{_ALPHABET[::4]}]A"
_PAIR, _GAP = "[2-7][0-9a-fA-F]", r"(?:00)?[\s:-]?"

# Written out: re finds the beginning of a repeated group much more slowly.
_BASE64_OF_ASCII = lazy_pattern(f"[{_FIRST}][{_SECOND}][{_THIRD}][A-Za-z0-9+/_-]" * 2)
"""The Base64 of six printable characters: some bits of each are known."""
_BASE64_OF_UTF16 = lazy_pattern(f"{_OUTER}{_INNER}|{_INNER}{_OUTER}")
"""The Base64 of three printable characters in UTF-16."""
_PERHAPS_HEX = lazy_pattern(rf"{_PAIR}(?=[0\s:2-7-]){_GAP}{(_PAIR + _GAP) * 5}")


class Decoding(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a text, decoded from Base64 or hexadecimal.

    :param text: its bytes, as Latin-1.
    :param positions: the position of its first character in the text, or of the characters that begin its bytes.
    """

    text: str
    positions: int | Sequence[int]

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return the span of a part of it in the text that it was found in."""
        if isinstance(self.positions, int):
            return self.positions + start * 4 // 3, self.positions - (-end * 4 // 3)
        return self.positions[start], self.positions[end - 1] + 2


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """A text without some of its escapes, and where each of its characters begins and ends in the original text."""

    text: str
    starts: Sequence[int]
    ends: Sequence[int]

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return the span of a part of it in the original text."""
        return self.starts[start], self.ends[end - 1]


def readings(text: str) -> Iterator[Reading]:
    """Yield a text as it came, then without its escapes, then without the escapes that this reveals, and so on.

    All escapes of a layer are undone at once, whatever their kind: each character of a text may be escaped differently.
    """
    whole = Reading(text=text, starts=range(len(text)), ends=range(1, len(text) + 1))
    yield whole
    if _SIGN.search(text) is None:
        return
    for escape in (_ESCAPE, _ESCAPE_BUT_BACKSLASH) if "\\" in text else (_ESCAPE,):
        reading = whole
        for _ in range(_MAX_LAYERS):
            if escape.search(reading.text) is None:
                break
            reading = _unescaped(escape, reading)
            yield reading


def folded(text: str) -> str:
    """Return a text of the same length in lower case, with every kind of space as a plus."""
    if text.isascii():
        return text.lower().replace(" ", "+").replace("\t", "+")
    low = text.casefold()
    if len(low) != len(text):
        low = "".join(one if len(one.casefold()) != 1 else one.casefold() for one in text)
    return _spaces_as_plus(low)


def _spaces_as_plus(text: str) -> str:
    # Several times as quick as a table for `translate`, and so below.
    return text.replace(" ", "+").replace("\t", "+").replace("\xa0", "+")


def folded_base64(text: str) -> str:
    """Return a text, mostly a folded one, in which both alphabets of Base64 are one."""
    return text.replace("-", "+").replace("_", "/")


def decodings(text: str) -> Iterator[Decoding]:
    """Yield the parts of a text that may be Base64 or hexadecimal, decoded at every offset."""
    # A form decoder turns a plus into a space.
    for run in _BASE64.finditer(_spaces_as_plus(text)):
        if not _may_be_base64(run[0]):
            continue
        whole = folded_base64(run[0])
        for offset in range(4):
            chunk = whole[offset:]
            chunk = chunk[: len(chunk) - (len(chunk) % 4 == 1)]
            if len(chunk) < 6:
                continue
            raw = binascii.a2b_base64(chunk + "=" * (-len(chunk) % 4))
            if _is_readable(raw):
                yield Decoding(text=raw.decode("latin-1"), positions=run.start() + offset)
    for run in _HEX.finditer(text) if _PERHAPS_HEX.search(text) else ():
        positions = [match.start() for match in _HEX_DIGITS.finditer(text, *run.span())]
        for offset in range(2):
            used = positions[offset:]
            used = used[: len(used) // 2 * 2]
            raw = bytes.fromhex("".join(text[at] for at in used))
            if _is_readable(raw):
                yield Decoding(text=raw.decode("latin-1"), positions=used[::2])


def _may_be_base64(text: str) -> bool:
    return _BASE64_OF_ASCII.search(text) is not None or ("A" in text and _BASE64_OF_UTF16.search(text) is not None)


def in_base64(text: bytes) -> list[bytes]:
    """Return what a text becomes in Base64 at each of three offsets, without what its neighbours change."""
    padded = (b"\0" * before + text for before in range(3))
    return [base64.b64encode(whole)[-(-before * 8 // 6) : len(whole) * 8 // 6] for before, whole in enumerate(padded)]


def is_plain(text: str) -> bool:
    """Return True if a text certainly has no escapes and contains no Base64 or hexadecimal."""
    return " " not in text and _SIGN.search(text) is None and not _may_be_base64(text) and _PERHAPS_HEX.search(text) is None


def _unescaped(escape: re.Pattern[str], reading: Reading) -> Reading:
    text, starts, ends = reading.text, reading.starts, reading.ends
    pieces: list[str] = []
    all_starts: list[int] = []
    all_ends: list[int] = []
    at = 0
    for match in escape.finditer(text):
        first, after = match.span()
        meaning = _meaning(match[0])
        pieces += [text[at:first], meaning]
        all_starts += [*starts[at:first], *[starts[first]] * len(meaning)]
        all_ends += [*ends[at:first], *[ends[after - 1]] * len(meaning)]
        at = after
    pieces.append(text[at:])
    return Reading(text="".join(pieces), starts=[*all_starts, *starts[at:]], ends=[*all_ends, *ends[at:]])


def _meaning(escape: str) -> str:
    sign, rest = escape[0], escape[1:]
    if sign == "&":
        meaning = html.unescape(escape)
        return html.unescape(escape.lower()) if meaning == escape else meaning
    if sign == "%":
        return _character(rest.lstrip("uU"), base=16)
    if sign != "\\":
        return ""
    if len(rest) == 1:
        return {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}.get(rest, rest)
    return _character(rest[1:].strip("{}"), base=16) if rest[0] in "uUxX" else _character(rest, base=8)


def _character(digits: str, *, base: int) -> str:
    number = int(digits, base)
    return chr(number) if number <= 0x10FFFF else ""


def _is_readable(raw: bytes) -> bool:
    return _READABLE.search(raw.replace(b"\0", b"")) is not None
