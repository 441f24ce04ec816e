# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The secrets that this process knows, and where a text repeats one, in whatever form."""

from __future__ import annotations

import base64
import re
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import quote, quote_plus

from limio_limitrail.api.secret import Secret
from limio_limitrail.api.secret_encodings import decodings, folded, folded_base64, is_plain, readings
from limio_limitrail.bare_errors import raises_bare
from limio_limitrail.concurrency.after_fork import after_fork

MOST_UNUSED = 64
"""Secrets that nobody holds any more and that are still looked for: a server may echo a token that has been replaced since."""

SHORTEST = 4
"""A secret of fewer characters is not looked for: it would be found in ordinary words."""

_SHORTEST_PIECE = 6
"""Characters of a secret that must not show, be the rest of it cut off."""

_SHORTEST_BASE64 = 8
"""What these become in Base64."""

_LONG_PIECE = 12
"""Words of a secret that stand together so are no coincidence."""

_GLANCE = 4
"""To tell that a text repeats nothing, groups of so many characters are looked at."""

_LONGEST_IN_BASE64 = 128
"""Of longer ones, which are tokens, the Base64 is found by decoding only, which a change of case prevents."""

_DEPTH = 3
"""Base64 in Base64, and so on."""

_END = "\0"
_CUTS = frozenset(_END + "?#&=/;,:%@\\\"'<>")
"""Where a URL, a form or a header is cut."""

_HEX = re.compile(r"[0-9a-fA-F]{1,9}")
"""Ids are full of these: such a piece tells something only where it stands alone and begins or ends where the secret does."""

_UNLIKE_WORDS = re.compile(r"[^A-Za-z0-9._+ -]|[a-z][A-Z]|[A-Za-z].*[0-9]|[0-9].*[A-Za-z]")

Spans = list[tuple[int, int]]


class _Needles:
    """What to look for, as one text.

    :param values: the secrets, or what has become of them.
    :param shortest: characters of the shortest piece that counts.
    """

    __slots__ = ("_lower", "_shortest", "_text", "_whole", "glances")

    def __init__(self, values: Iterable[str], *, shortest: int) -> None:
        kept = list(dict.fromkeys(values))
        self._text = _END + _END.join(kept) + _END
        self._lower = folded(self._text)
        self._shortest = shortest
        self._whole = tuple(folded(value) for value in kept)
        self.glances = frozenset(value[at : at + _GLANCE] for value in self._whole for at in range(len(value) - _GLANCE + 1))

    def whole(self, text: str) -> Spans:
        """Return where a folded text has one of them whole."""
        found = []
        for value in self._whole:
            at = text.find(value)
            while at >= 0:
                found.append((at, at + len(value)))
                at = text.find(value, at + 1)
        return found

    def pieces(self, text: str) -> Spans:
        """Return where a folded text has one of them, or a piece that is none by chance."""
        # What stands between the needles is none of them.
        text = text.replace(_END, "\1")
        found, at, size = self.whole(text), 0, self._shortest
        if self.glances.isdisjoint(_groups(text, size=size)):
            return found
        while at <= len(text) - size:
            # The longest that they have in common; of what is in it by chance no part is looked at again.
            longest, is_telling = size - 1, False
            piece = text[at : at + size]
            place = self._lower.find(piece) if piece[:_GLANCE] in self.glances else -1
            while place >= 0:
                length = self._common(text, at, place)
                if length >= longest:
                    telling = self._is_telling(place, length, alone=_stands_alone(text, at, at + length))
                    longest, is_telling = length, telling or (is_telling and length == longest)
                place = self._lower.find(piece, place + 1)
            if is_telling:
                found.append((at, at + longest))
            at += longest - size + 2
        return found

    def _common(self, text: str, at: int, place: int) -> int:
        """Count the characters that a text and the needles have in common from two places on."""
        length = self._shortest
        while at + length < len(text) and text[at + length] == self._lower[place + length]:
            length += 1
        return length

    def _is_telling(self, place: int, length: int, *, alone: bool) -> bool:
        """Tell whether a piece is more than words that the secret and the text happen to have in common.

        :param alone: whether it stands alone in the text.
        """
        piece, before, after = self._text[place : place + length], self._text[place - 1], self._text[place + length]
        if _HEX.fullmatch(piece):
            return alone and (before in _CUTS or after in _CUTS)
        return (
            length >= _LONG_PIECE
            or _UNLIKE_WORDS.search(piece) is not None
            or _is_one_word(before, piece[0])
            or _is_one_word(piece[-1], after)
            or (alone and before in _CUTS and after in _CUTS)
        )


def _groups(text: str, *, size: int) -> list[str]:
    """Return groups of characters of which each piece of a size has one whole."""
    return [text[at : at + _GLANCE] for at in range(0, len(text) - _GLANCE + 1, size - _GLANCE + 1)]


def _stands_alone(text: str, start: int, end: int) -> bool:
    return not any(one.isalnum() or one == "_" for one in text[max(start - 1, 0) : start] + text[end : end + 1])


def _is_one_word(one: str, other: str) -> bool:
    return (one.isalpha() and other.isalpha()) or (one.isdigit() and other.isdigit())


class _Entry:
    """One secret.

    :param value: the secret.
    """

    __slots__ = ("_holders", "encoded", "values")

    def __init__(self, value: str) -> None:
        self._holders: list[weakref.ref[Secret]] = []
        forms = [reading.text for reading in readings(value)]
        # A text whose UTF-8 is read byte by byte.
        forms += [form.encode("utf-8", "replace").decode("latin-1") for form in forms if not form.isascii()]
        self.values = [form for form in forms if len(form) >= SHORTEST]
        written = {value, quote(value, safe="", errors="replace"), quote_plus(value, errors="replace")}
        self.encoded = [core for form in written for core in _cores(form)] if len(value) <= _LONGEST_IN_BASE64 else []

    def hold(self, secret: Secret) -> None:
        """Note that somebody has the secret."""
        living = [holder for holder in self._holders if holder() is not None]
        if all(holder() is not secret for holder in living):
            living.append(weakref.ref(secret))
        self._holders = living

    @property
    def is_used(self) -> bool:
        return any(holder() is not None for holder in self._holders)


def _cores(value: str) -> Iterator[str]:
    """Yield what a text becomes in Base64, at each of three places where it may begin, without what its neighbours change."""
    raw = value.encode("utf-8", "replace")
    for before in range(3):
        text = base64.b64encode(b"\0" * before + raw).decode("ascii")
        core = text[-(-before * 8 // 6) : (before + len(raw)) * 8 // 6]
        if len(core) >= _SHORTEST_BASE64:
            yield core


class _KnownSecrets:
    """All secrets of a process. What is looked for is replaced as a whole, so that readers need no lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[Secret, _Entry] = {}
        self.plain = _Needles((), shortest=_SHORTEST_PIECE)
        self.encoded = _Needles((), shortest=_SHORTEST_BASE64)
        self.glances: frozenset[str] = frozenset()
        after_fork(self)

    def after_fork(self) -> None:
        """Keep what the parent knew, which the child has in its memory too; its lock may have been held."""
        self._lock = threading.Lock()

    def remember(self, secret: Secret) -> None:
        value = secret.reveal()
        if len(value) < SHORTEST:
            return
        # What is kept is not what others hold: else nobody could tell that they do not hold it any more.
        key = Secret(value)
        with self._lock:
            known = self._entries.get(key)
            entry = known or _Entry(value)
            entry.hold(secret)
            if known is None:
                self._entries[key] = entry
                self._forget(but=MOST_UNUSED)

    def forget_unused(self) -> None:
        """Forget all secrets that nobody holds any more."""
        with self._lock:
            self._forget(but=0)

    def _forget(self, *, but: int) -> None:
        unused = [key for key, entry in self._entries.items() if not entry.is_used]
        for key in unused[: max(len(unused) - but, 0)]:
            del self._entries[key]
        entries = self._entries.values()
        plain = _Needles((value for entry in entries for value in entry.values), shortest=_SHORTEST_PIECE)
        encoded = _Needles((folded_base64(core) for entry in entries for core in entry.encoded), shortest=_SHORTEST_BASE64)
        self.plain, self.encoded, self.glances = plain, encoded, plain.glances | encoded.glances

    def may_be_in(self, text: str) -> bool:
        """Tell at a glance that a text repeats nothing: False. It is asked of each id that an answer bears."""
        if not self.glances:
            return False
        low = folded(text)
        return not self.glances.isdisjoint(_groups(low, size=_SHORTEST_PIECE)) or not is_plain(text)


_known = _KnownSecrets()


def forget_unused_secrets() -> None:
    """Forget what nobody holds any more: for tests, of which one must not mask what another one says."""
    _known.forget_unused()


@raises_bare
def remember_secret(secret: Secret) -> None:
    """Have a secret masked from now on in whatever an API says.

    It is remembered for as long as somebody holds a `Secret` of its value. Of those that nobody holds any more the latest
    `MOST_UNUSED` are remembered, too.
    """
    _known.remember(secret)


def find_secrets(text: str) -> Spans:
    """Return where a text repeats a secret of this process or a piece of one, in any form, in order and without overlaps."""
    if not _known.may_be_in(text):
        return []
    plain, encoded = _known.plain, _known.encoded
    merged: Spans = []
    for start, end in sorted(_search(text, lambda low: plain.pieces(low) + encoded.pieces(folded_base64(low)))):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def holds_secret(text: str) -> bool:
    """Tell whether a text repeats a whole secret of this process, in any form."""
    if not _known.may_be_in(text):
        return False
    plain, encoded = _known.plain, _known.encoded
    return next(_search(text, lambda low: plain.whole(low) + encoded.whole(folded_base64(low))), None) is not None


def _search(text: str, look: Callable[[str], Spans], *, depth: int = _DEPTH) -> Iterator[tuple[int, int]]:
    for reading in readings(text):
        for start, end in look(folded(reading.text)):
            yield reading.span(start, end)
        if depth:
            for decoded in decodings(reading.text):
                for start, end in _search(decoded.text, look, depth=depth - 1):
                    yield reading.span(*decoded.span(start, end))
