# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Credentials that never appear in a log, a repr or a pickle, and where a text repeats one, in whatever encoding."""

from __future__ import annotations

import hmac
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, NoReturn, TypeVar
from urllib.parse import quote, quote_plus

from limio_limitrail.api.secret_encodings import decodings, folded, folded_base64, in_base64, is_plain, readings
from limio_limitrail.bare_errors import raises_bare
from limio_limitrail.concurrency import after_fork
from limio_limitrail.lazy import lazy_pattern

T = TypeVar("T")


class Secret:
    """A credential that no log line, traceback, repr, pickle or JSON can contain by accident."""

    __slots__ = ("__weakref__", "_value")

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value, to send it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._bytes(), other._bytes())

    def _bytes(self) -> bytes:
        return self._value.encode(errors="surrogatepass")

    def __hash__(self) -> int:
        return hash(self._value)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret stays in memory: it cannot be pickled, copied into XCom or sent to a trigger")


def revealed(values: Mapping[str, str | Secret]) -> dict[str, str]:
    """Return headers, or a form, as they are sent."""
    return {name: value.reveal() if isinstance(value, Secret) else value for name, value in values.items()}


class Sealed(Generic[T]):
    """Hides an object that contains a credential, such as a library's session whose proxy needs a password.

    Tools that collect the variables of an error's frames do not see through it.
    """

    __slots__ = ("_open",)

    def __init__(self, value: T) -> None:
        self._open: Callable[[], T] = lambda: value

    def open(self) -> T:
        """Return the object."""
        return self._open()

    def __repr__(self) -> str:
        return "Sealed(***)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("what is sealed stays in memory: it cannot be pickled")


MAX_UNUSED = 64
"""Secrets that are no longer in use but still searched for: a server may echo a token that has been replaced since."""

MIN_LENGTH = 4
"""A secret of fewer characters is not searched for: it would be found in ordinary words."""

_MIN_PIECE = 6
"""Characters of a secret that must not show, even if the rest is cut off."""

_MIN_BASE64 = 8
"""What these become in Base64."""

_LONG_PIECE = 12
"""Characters of a secret's words in a row that are no coincidence."""

_NGRAM = 4
"""Characters of an n-gram: a text without any n-gram of a secret repeats none, which is cheap to find out."""

_MAX_IN_BASE64 = 128
"""The Base64 of longer secrets, which are tokens, is found by decoding only, which a change of case prevents."""

_DEPTH = 3
"""Base64 in Base64, and so on."""

_END = "\0"
_CUTS = frozenset(_END + "?#&=/;,:%@\\\"'<>")
"""Where a URL, a form or a header is cut."""

_HEX = lazy_pattern(r"[0-9a-fA-F]{1,9}")
"""Ids are full of these: such a piece counts only if it stands alone and begins or ends where the secret does."""

_UNLIKE_WORDS = lazy_pattern(r"[^A-Za-z0-9._+ -]|[a-z][A-Z]|[A-Za-z].*[0-9]|[0-9].*[A-Za-z]")

Spans = list[tuple[int, int]]


class _Needles:
    """The texts to search for, joined: secrets, or encodings of them, of which pieces count from `shortest` characters on."""

    __slots__ = ("_folded", "_shortest", "_text", "_values", "ngrams")

    def __init__(self, values: Iterable[str], *, shortest: int) -> None:
        texts = list(dict.fromkeys(values))
        self._text = _END + _END.join(texts) + _END
        self._folded = folded(self._text)
        self._shortest = shortest
        self._values = tuple(folded(value) for value in texts)
        self.ngrams = frozenset(value[at : at + _NGRAM] for value in self._values for at in range(len(value) - _NGRAM + 1))

    def whole(self, text: str) -> Spans:
        found = []
        for value in self._values:
            at = text.find(value)
            while at >= 0:
                found.append((at, at + len(value)))
                at = text.find(value, at + 1)
        return found

    def pieces(self, text: str) -> Spans:
        """Return where a folded text contains one, or a piece that is no coincidence."""
        # The separator of the needles is none of them.
        text = text.replace(_END, "\1")
        found, at, size = self.whole(text), 0, self._shortest
        if self.ngrams.isdisjoint(_ngrams_of(text, size=size)):
            return found
        while at <= len(text) - size:
            # The longest common piece; where it is a coincidence, no part of it is searched again.
            longest, is_significant = size - 1, False
            piece = text[at : at + size]
            position = self._folded.find(piece) if piece[:_NGRAM] in self.ngrams else -1
            while position >= 0:
                length = self._common(text, at, position)
                if length >= longest:
                    significant = self._is_significant(position, length, alone=_stands_alone(text, at, at + length))
                    longest, is_significant = length, significant or (is_significant and length == longest)
                position = self._folded.find(piece, position + 1)
            if is_significant:
                found.append((at, at + longest))
            at += longest - size + 2
        return found

    def _common(self, text: str, at: int, position: int) -> int:
        """Return how many characters a text and the needles have in common from two positions on."""
        length = self._shortest
        while at + length < len(text) and text[at + length] == self._folded[position + length]:
            length += 1
        return length

    def _is_significant(self, position: int, length: int, *, alone: bool) -> bool:
        """Return whether a piece is more than words that the secret and the text happen to have in common."""
        piece, before, after = self._text[position : position + length], self._text[position - 1], self._text[position + length]
        if _HEX.fullmatch(piece):
            return alone and (before in _CUTS or after in _CUTS)
        return (
            length >= _LONG_PIECE
            or _UNLIKE_WORDS.search(piece) is not None
            or _is_one_word(before, piece[0])
            or _is_one_word(piece[-1], after)
            or (alone and before in _CUTS and after in _CUTS)
        )


def _ngrams_of(text: str, *, size: int) -> list[str]:
    return [text[at : at + _NGRAM] for at in range(0, len(text) - _NGRAM + 1, size - _NGRAM + 1)]


def _stands_alone(text: str, start: int, end: int) -> bool:
    return not any(one.isalnum() or one == "_" for one in text[max(start - 1, 0) : start] + text[end : end + 1])


def _is_one_word(one: str, other: str) -> bool:
    return (one.isalpha() and other.isalpha()) or (one.isdigit() and other.isdigit())


class _Entry:
    """One secret."""

    __slots__ = ("_holders", "encoded", "values")

    def __init__(self, value: str) -> None:
        self._holders: list[weakref.ref[Secret]] = []
        forms = [reading.text for reading in readings(value)]
        # A text whose UTF-8 is read byte by byte.
        forms += [form.encode("utf-8", "replace").decode("latin-1") for form in forms if not form.isascii()]
        self.values = [form for form in forms if len(form) >= MIN_LENGTH]
        written = {value, quote(value, safe="", errors="replace"), quote_plus(value, errors="replace")}
        cores = (core for form in written for core in in_base64(form.encode("utf-8", "replace")) if len(core) >= _MIN_BASE64)
        self.encoded = [core.decode("ascii") for core in cores] if len(value) <= _MAX_IN_BASE64 else []

    def hold(self, secret: Secret) -> None:
        living = [holder for holder in self._holders if holder() is not None]
        if all(holder() is not secret for holder in living):
            living.append(weakref.ref(secret))
        self._holders = living

    @property
    def is_used(self) -> bool:
        return any(holder() is not None for holder in self._holders)


class _KnownSecrets:
    """All secrets of a process. The needles are replaced as a whole, so that readers need no lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[Secret, _Entry] = {}
        self.direct = _Needles((), shortest=_MIN_PIECE)
        self.encoded = _Needles((), shortest=_MIN_BASE64)
        self.ngrams: frozenset[str] = frozenset()
        after_fork(self)

    def after_fork(self) -> None:
        """Replace the lock, which may be held. The secrets stay: they are in the child's memory, too."""
        self._lock = threading.Lock()

    def remember(self, secret: Secret) -> None:
        value = secret.reveal()
        if len(value) < MIN_LENGTH:
            return
        # A copy: the original must be free to be collected, which is how unused secrets are detected.
        key = Secret(value)
        with self._lock:
            known = self._entries.get(key)
            entry = known or _Entry(value)
            entry.hold(secret)
            if known is None:
                self._entries[key] = entry
                self._forget(but=MAX_UNUSED)

    def forget_unused(self) -> None:
        """Forget all secrets that are no longer in use."""
        with self._lock:
            self._forget(but=0)

    def _forget(self, *, but: int) -> None:
        unused = [key for key, entry in self._entries.items() if not entry.is_used]
        for key in unused[: max(len(unused) - but, 0)]:
            del self._entries[key]
        entries = self._entries.values()
        direct = _Needles((value for entry in entries for value in entry.values), shortest=_MIN_PIECE)
        encoded = _Needles((folded_base64(core) for entry in entries for core in entry.encoded), shortest=_MIN_BASE64)
        self.direct, self.encoded, self.ngrams = direct, encoded, direct.ngrams | encoded.ngrams

    def may_be_in(self, text: str) -> bool:
        """Return False if a text certainly repeats no secret. Called with each id of a response, so it must be cheap."""
        if not self.ngrams:
            return False
        low = folded(text)
        return not self.ngrams.isdisjoint(_ngrams_of(low, size=_MIN_PIECE)) or not is_plain(text)


_known = _KnownSecrets()


def forget_unused_secrets() -> None:
    """Forget the secrets that are no longer in use: for tests, which must not mask each other's texts."""
    _known.forget_unused()


@raises_bare
def remember_secret(secret: Secret) -> None:
    """Mask a secret from now on in whatever an API says.

    It is remembered for as long as a `Secret` of its value is in use. Of those no longer in use the latest `MAX_UNUSED` are
    remembered, too.
    """
    _known.remember(secret)


def may_hold_secret(text: str) -> bool:
    """Return False if a text certainly repeats neither a secret of this process nor a piece of one, which is quick to see."""
    return _known.may_be_in(text)


def find_secrets(text: str) -> Spans:
    """Return where a text repeats a secret of this process or a piece of one, in any encoding, in order, without overlaps."""
    if not _known.may_be_in(text):
        return []
    direct, encoded = _known.direct, _known.encoded
    merged: Spans = []
    for start, end in sorted(_search(text, lambda low: direct.pieces(low) + encoded.pieces(folded_base64(low)))):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def holds_secret(text: str) -> bool:
    """Return whether a text repeats a whole secret of this process, in any encoding."""
    if not _known.may_be_in(text):
        return False
    direct, encoded = _known.direct, _known.encoded
    return next(_search(text, lambda low: direct.whole(low) + encoded.whole(folded_base64(low))), None) is not None


def _search(text: str, find: Callable[[str], Spans], *, depth: int = _DEPTH) -> Iterator[tuple[int, int]]:
    for reading in readings(text):
        for start, end in find(folded(reading.text)):
            yield reading.span(start, end)
        if depth:
            for decoded in decodings(reading.text):
                for start, end in _search(decoded.text, find, depth=depth - 1):
                    yield reading.span(*decoded.span(start, end))
