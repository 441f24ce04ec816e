# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Masks values of undecoded records before anything is made of them: parts, columns and a transform see masked values only.

A record with a masked name is written anew, so that a name that occurs twice, or is spelled with escapes, hides nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Protocol, TypeAlias

import msgspec

from limio_limitrail.landing.shaping import RecordError

FULLY_MASKED = "****"
"""What stands for a value of which nothing is shown."""

_SHOWN = 4
_LEAST_SHOWN_OF = 9
"""A shorter text is masked in full: its last characters would be too much of it."""

_MAX_NAMES = 10_000
_MAX_SPELLINGS = 8
_MAX_PLAIN_DIGITS = 40
_MAX_EXPONENT_DIGITS = 15

_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_TEXT = msgspec.json.Decoder(str)
_NUMBER = re.compile(r"(-?)(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d+))?")
_BEFORE_JSON = " \t\r\n\ufeff"

_Members: TypeAlias = dict[str, msgspec.Raw]

KeyedHash: TypeAlias = Callable[[bytes], str]
"""Returns the HMAC of a text's UTF-8 in hexadecimal, with a key that nobody else has."""


class MaskRule(StrEnum):
    """What becomes of a value. A null stays null, and of a list each element is masked."""

    HMAC = "hmac"
    """Replaced by a keyed hash: the same value has the same one in every table."""
    DROP = "drop"
    """Removed, with its name."""
    LAST4 = "last4"
    """Replaced by ``****`` and its last four characters if it has at least nine, else by ``****``."""


class Mask(msgspec.Struct, frozen=True, kw_only=True):
    """One masked value of each record.

    :param name: the name that the task gave.
    :param rule: what becomes of the value.
    :param paths: where it is, as names from the record's top level; lists on the way are passed through.
    :param optional: whether records without it are no error.
    """

    name: str
    rule: MaskRule
    paths: tuple[tuple[str, ...], ...]
    optional: bool = False


class MaskablePage(Protocol):
    """A page of records that are not masked yet."""

    @property
    def raw_records(self) -> list[msgspec.Raw]: ...
    @property
    def wrapped(self) -> bool: ...
    @property
    def next_cursor(self) -> Mapping[str, str] | None: ...
    @property
    def ends_slice(self) -> bool: ...
    @property
    def resumable(self) -> bool: ...


class MaskedPage(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """A page whose records are masked."""

    raw_records: list[msgspec.Raw]
    wrapped: bool
    next_cursor: Mapping[str, str] | None
    ends_slice: bool
    resumable: bool

    @cached_property
    def records(self) -> bytes:
        """The JSON array of records."""
        return b"[" + b",".join(self.raw_records) + b"]"


def folded(name: str) -> str:
    """Return what the spellings of a name have in common: without case, width, blanks around it and invisible characters.

    ``EMAIL``, fullwidth letters and a zero-width space within a name are read as the same name by people and by databases.
    """
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return "".join(character for character in text if unicodedata.category(character)[0] != "C").strip()


def _letters(name: str) -> str:
    """Return what names have in common that differ in case, blanks and punctuation only."""
    return re.sub(r"[\W_]+", "", folded(name)) or name


@dataclass(eq=False, repr=False)
class _Node:
    """A place in a record that masks are about, or lead through.

    :param spelling: its name, as the task gave it.
    :param mask: the mask of the value here; None if its members are looked at.
    :param below: the members that lead on, by folded name.
    :param names: the names that objects have here; of very many, the latest.
    :param hits: those of them that lead on, as they are spelled.
    :param lookalikes: those of them that do not, and differ in punctuation only from one that does.
    """

    spelling: str = ""
    mask: Mask | None = None
    below: dict[str, _Node] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    hits: dict[str, _Node] = field(default_factory=dict)
    lookalikes: dict[str, _Node] = field(default_factory=dict)

    def add(self, mask: Mask, path: Sequence[str]) -> None:
        """Add a mask. A member whose own name holds the dots of a path is at that path, too."""
        for cut in range(1, len(path) + 1):
            name = ".".join(path[:cut])
            child = self.below.setdefault(folded(name), _Node(spelling=name))
            if cut == len(path):
                child.mask = mask
            else:
                child.add(mask, path[cut:])

    def find(self, members: _Members) -> list[tuple[str, _Node]]:
        """Return the members that lead on."""
        if len(self.names) > _MAX_NAMES:  # names that are data
            self.names.clear()
            self.hits.clear()
            self.lookalikes.clear()
        for name in members.keys() - self.names:
            self.names.add(name)
            child = self.below.get(folded(name))
            if child is not None:
                self.hits[name] = child
            elif (meant := self._by_letters.get(_letters(name))) is not None:
                self.lookalikes[name] = meant
        return [(name, self.hits[name]) for name in members.keys() & self.hits.keys()]

    def masks(self) -> Iterator[Mask]:
        """Yield the masks of the value here, or of what is in it."""
        if self.mask is not None:
            yield self.mask
        for child in self.below.values():
            yield from child.masks()

    @cached_property
    def _by_letters(self) -> dict[str, _Node]:
        # A name with dots stands for a path, and data_email is no other spelling of it. Of two names the first is the task's.
        children = [child for child in self.below.values() if "." not in child.spelling]
        return {_letters(child.spelling): child for child in reversed(children)}


class Masker:
    """Masks the pages of a list.

    :param masks: what to mask; of two masks, none may be about a part of the other's value.
    :param keyed_hash: makes the hashes; None if no mask needs any.
    """

    def __init__(self, masks: Iterable[Mask], *, keyed_hash: KeyedHash | None) -> None:
        self._root = _Node()
        for mask in masks:
            for path in mask.paths:
                self._root.add(mask, path)
        self._hash = keyed_hash
        self.found: set[str] = set()
        """The names of the masks that some record had a value for; a null is a value."""
        self.spellings: dict[str, set[str]] = {}
        """Names of members that were masked though they are spelled otherwise, by the name of the mask; a few of each."""
        self.lookalikes: dict[str, set[str]] = {}
        """Names that objects have instead of a masked one, and that differ in punctuation only, by the name of the mask."""
        self.unreadable = 0
        """Texts on the way to a masked value that look like JSON and are none: they were masked in full."""

    def apply(self, page: MaskablePage) -> MaskedPage:
        """Return the page with masked records.

        :raises RecordError: a record is not an object, so that nothing in it can be masked.
        """
        return MaskedPage(
            raw_records=[self._record(raw) for raw in page.raw_records],
            wrapped=page.wrapped,
            next_cursor=page.next_cursor,
            ends_slice=page.ends_slice,
            resumable=page.resumable,
        )

    def names_beside(self, path: Sequence[str]) -> set[str]:
        """Return the names that records have where the last name of a path could be."""
        node: _Node | None = self._root
        for name in path[:-1]:
            node = None if node is None else node.below.get(folded(name))
        return set() if node is None else set(node.names)

    def _record(self, raw: msgspec.Raw) -> msgspec.Raw:
        try:
            members = _OBJECT.decode(raw)
        except msgspec.ValidationError:
            raise RecordError("a record of the page is not a JSON object, so nothing in it can be masked") from None
        masked = self._masked_members(members, self._root)
        return raw if masked is None else msgspec.Raw(masked)

    def _masked_members(self, members: _Members, node: _Node) -> bytes | None:
        """Mask an object's members; return None if it has none that a mask is about or leads through."""
        hits = node.find(members)
        if node.lookalikes:
            self._note_lookalikes(members, node)
        if not hits:
            return None
        for name, child in hits:
            if child.mask is None:
                members[name] = msgspec.Raw(self._within(bytes(members[name]), child))
                continue
            self._note(child.mask, name=name, given=child.spelling)
            if child.mask.rule is MaskRule.DROP:
                del members[name]
            else:
                members[name] = msgspec.Raw(self._masked(bytes(members[name]), child.mask.rule))
        return msgspec.json.encode(members)

    def _note_lookalikes(self, members: _Members, node: _Node) -> None:
        there = {id(child) for name, child in node.hits.items() if name in members}
        for name, meant in node.lookalikes.items():
            if name in members and id(meant) not in there:
                for mask in meant.masks():
                    self.lookalikes.setdefault(mask.name, set()).add(name)

    def _note(self, mask: Mask, *, name: str, given: str) -> None:
        self.found.add(mask.name)
        if name != given:
            spellings = self.spellings.setdefault(mask.name, set())
            if len(spellings) < _MAX_SPELLINGS:
                spellings.add(name)

    def _within(self, value: bytes, node: _Node) -> bytes:
        """Mask what is in an object, in each element of a list, or in the JSON that a text holds."""
        match value[:1]:
            case b"{":
                masked = self._masked_members(_OBJECT.decode(value), node)
                return value if masked is None else masked
            case b"[":
                items = [bytes(item) for item in _LIST.decode(value)]
                masked_items = [self._within(item, node) for item in items]
                return value if masked_items == items else b"[" + b",".join(masked_items) + b"]"
            case b'"':
                return self._within_text(value, node)
            case _:
                return value

    def _within_text(self, value: bytes, node: _Node) -> bytes:
        text = _TEXT.decode(value).strip(_BEFORE_JSON)
        if not text.startswith(("{", "[", '"')):
            return value
        inner = text.encode()
        try:
            masked = self._within(inner, node)
        except (msgspec.DecodeError, RecursionError):
            if text.startswith('"'):
                return value
            # It may hold what must not be seen, in a form that some other reader understands.
            self.unreadable += 1
            return _quoted(FULLY_MASKED)
        return value if masked == inner else _quoted(masked.decode())

    def _masked(self, value: bytes, rule: MaskRule) -> bytes:
        if value == b"null":
            return value
        if value.startswith(b"["):
            return b"[" + b",".join([self._masked(bytes(item), rule) for item in _LIST.decode(value)]) + b"]"
        if rule is MaskRule.HMAC:
            assert self._hash is not None
            return _quoted(self._hash(canonical_text(value).encode()))
        text = canonical_text(value) if value[:1] not in b"{tf" else ""
        return _quoted(FULLY_MASKED + (text[-_SHOWN:] if len(text) >= _LEAST_SHOWN_OF else ""))


def _quoted(text: str) -> bytes:
    return msgspec.json.encode(text)


def canonical_text(value: bytes) -> str:
    """Return the text of a JSON value that is the same for all ways to write the value.

    A text stands for itself, in Unicode's form NFC. A number has all of its digits and no superfluous zeros, so that ``1``,
    ``1.0`` and ``10e-1`` are the same, and the same as the text ``1``. An object is JSON in this form, its names sorted, without
    blanks.

    :param value: undecoded JSON.
    """
    match value[:1]:
        case b'"':
            return unicodedata.normalize("NFC", _TEXT.decode(value))
        case b"{" | b"[":
            return _canonical_json(value)
        case b"t" | b"f" | b"n":
            return value.decode()
        case _:
            return canonical_number(value.decode())


def _canonical_json(value: bytes) -> str:
    match value[:1]:
        case b"{":
            members = {unicodedata.normalize("NFC", name): raw for name, raw in _OBJECT.decode(value).items()}
            items = (f"{_quoted(name).decode()}:{_canonical_json(bytes(raw))}" for name, raw in sorted(members.items()))
            return "{" + ",".join(items) + "}"
        case b"[":
            return "[" + ",".join([_canonical_json(bytes(item)) for item in _LIST.decode(value)]) + "]"
        case b'"':
            return _quoted(canonical_text(value)).decode()
        case _:
            return canonical_text(value)


def canonical_number(text: str) -> str:
    """Return the same text for all ways to write a JSON number, without rounding it."""
    found = _NUMBER.fullmatch(text)
    if found is None:
        return text
    sign, whole, fraction, exponent = found[1], found[2], found[3] or "", found[4] or "0"
    all_digits = (whole + fraction).lstrip("0")
    if not all_digits:
        return "0"
    if len(exponent.lstrip("+-0")) > _MAX_EXPONENT_DIGITS:
        return text
    digits = all_digits.rstrip("0")
    power = int(exponent) - len(fraction) + len(all_digits) - len(digits)
    if power >= 0 and len(digits) + power <= max(_MAX_PLAIN_DIGITS, len(digits)):
        return sign + digits + "0" * power
    if power < 0 and -power <= max(_MAX_PLAIN_DIGITS, len(digits)):
        padded = digits.rjust(1 - power, "0")
        return f"{sign}{padded[:power]}.{padded[power:]}"
    return f"{sign}{digits}e{power}"


def overlapping(masks: Iterable[Mask]) -> tuple[Mask, Mask] | None:
    """Return two masks of which one is about the other's value or a part of it; None if there are none."""
    seen: list[tuple[str, Mask]] = []
    for mask in masks:
        for path in mask.paths:
            spelling = _spelling(path)
            for other_spelling, other in seen:
                if other is not mask and (spelling.startswith(other_spelling) or other_spelling.startswith(spelling)):
                    return other, mask
            seen.append((spelling, mask))
    return None


def covers(path: Sequence[str], other: Sequence[str]) -> bool:
    """Return whether the value at a path is, or holds, the value at another path."""
    return _spelling(other).startswith(_spelling(path))


def _spelling(path: Iterable[str]) -> str:
    """Return a path as one text, in which no name is the beginning of another."""
    return "".join(f"{folded(name)}." for part in path for name in part.split("."))


class PullMasks(Protocol):
    """The masks of a pull. What its checks raise ends the pull, and its parts are removed."""

    def masker(self) -> Masker:
        """Return a masker that has seen no record yet."""

    def check_part(self, masker: Masker, *, found: Collection[str]) -> None:
        """Check the names of the records so far, before a part of them is stored.

        :param found: the masked names that some record of the pull had.
        """

    def check_all(self, masker: Masker | None, *, found: Collection[str]) -> None:
        """Check the whole pull, which had records, before the manifest is written.

        :param masker: None if an earlier try has read all records.
        """
