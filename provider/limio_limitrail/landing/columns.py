# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Converts a page's records to typed columns, in C for records that look like those before them.

The types of the keys are inferred from the records, and become a msgspec Struct that refuses unknown keys and other types. A page
that does not fit it is inferred again, so no value is ever skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from limio_limitrail.landing.arrow_tables import boolean_array, without_columns
from limio_limitrail.landing.column_types import Kind, arrow_field
from limio_limitrail.landing.nested_paths import MISSING, OBJECTS, ODD_KEY, NestedPath, NestedPathReader
from limio_limitrail.landing.shaping import RecordError
from limio_limitrail.landing.timestamps import to_timestamps
from limio_limitrail.landing.values import from_integers, from_raw, from_texts

if TYPE_CHECKING:
    import pyarrow as pa

_ANYTHING = msgspec.json.Decoder(list[msgspec.Raw])
_MAX_NOTED_KEYS = 10_000


class _Decoding(NamedTuple):
    """How a key's values are decoded: their type, what stands for a missing one, and what makes an array of them."""

    type: Any
    missing: Any
    to_array: Callable[[list[Any]], tuple[Kind, pa.Array]]


_TEXT = _Decoding(str | None, None, from_texts)
_BOOLEAN = _Decoding(bool | None, None, lambda values: (Kind.BOOLEAN, boolean_array(values)))
_INTEGER = _Decoding(int | None, None, from_integers)
_ANY = _Decoding(msgspec.Raw, MISSING, lambda raws: from_raw([bytes(raw) or None for raw in raws]))


class FoundNames:
    """The keys and nested columns that records had.

    :param sought: keys to look for. Once all were found, further keys are not noted.
    """

    def __init__(self, sought: Iterable[str]) -> None:
        self._sought = set(sought)
        self.keys: set[str] = set()
        self._nested: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._nested or name in self.keys

    def add_record(self, keys: Iterable[str]) -> None:
        """Note a record's keys."""
        if not self._sought:
            return
        found = self._sought.intersection(keys)
        self._sought -= found
        self.keys |= found
        if len(self.keys) < _MAX_NOTED_KEYS:
            self.keys.update(keys)

    def add_nested(self, nested: Mapping[str, Sequence[bytes | None]]) -> None:
        """Note which nested columns have values on a page; a null is a value."""
        for name, values in nested.items():
            if name not in self._nested and values.count(None) < len(values):
                self._nested.add(name)


class ColumnReader:
    """Converts JSON arrays of records to Arrow tables, one column a key, each of the narrowest kind that fits the page.

    :param timestamps: the columns that become timestamps if a timestamp in microseconds preserves all of their values; see
        `to_timestamps`.
    :param nested_columns: nested values to store as columns, as column name → path.
    :param dropped: the columns to leave out.
    :param max_columns: the most columns that all pages together may have; None for any number.
    """

    def __init__(
        self,
        *,
        timestamps: Sequence[str] = (),
        nested_columns: Mapping[str, NestedPath] | None = None,
        dropped: Sequence[str] = (),
        max_columns: int | None = None,
    ) -> None:
        self._timestamps = frozenset(timestamps)
        self._dropped = frozenset(dropped)
        nested_paths = {name: path for name, path in (nested_columns or {}).items() if name not in self._dropped}
        self._nested_reader = NestedPathReader(nested_paths) if nested_paths else None
        self._nested = frozenset(nested_paths)
        self._decodings: dict[str, _Decoding | None] = {}
        self.names = FoundNames(self._dropped)
        self._decoder: msgspec.json.Decoder[list[Any]] = msgspec.json.Decoder(list[dict[str, Any]])
        self._max_columns = max_columns
        self._inferred = False
        self._odd = False

    def read(self, records: bytes) -> pa.Table:
        """Read one page.

        :param records: a JSON array of objects.
        :return: the columns that have a value in this page, and those that no page before had.
        :raises RecordError: an element is not an object, a nested column has the name of a key, or there are too many columns.
        """
        import pyarrow as pa

        known = len(self._decodings)
        rows, values_of = self._decode(records)
        fields: list[pa.Field] = []
        arrays: list[pa.Array] = []

        def add(name: str, kind: Kind, array: pa.Array) -> None:
            if name in self._timestamps and kind is Kind.TEXT:
                kind, array = to_timestamps(array)
            fields.append(arrow_field(name=name, kind=kind))
            arrays.append(array)

        # If records differ in their keys, a page has few of all columns: empty ones are left out unless the page has no other.
        empty: list[tuple[str, _Decoding, list[Any]]] = []
        for index, (name, inferred) in enumerate(self._decodings.items()):
            if name in self._dropped:
                continue
            decoding, values = inferred or _ANY, values_of(index, name)
            if index < known and values.count(decoding.missing) == len(values):
                empty.append((name, decoding, values))
            else:
                add(name, *decoding.to_array(values))
        if not fields:
            for name, decoding, values in empty:
                add(name, *decoding.to_array(values))
        if self._nested_reader is not None:
            nested = self._nested_reader.read(records)
            self.names.add_nested(nested)
            for name, values in nested.items():
                add(name, *from_raw(values))
        return pa.Table.from_arrays(arrays, schema=pa.schema(fields)) if fields else without_columns(len(rows))

    def _decode(self, records: bytes) -> tuple[list[Any], Callable[[int, str], list[Any]]]:
        """Return the rows, and a function that returns a column's values by its index and name."""
        rows: list[Any] | None = None
        if self._inferred:
            with suppress(msgspec.ValidationError):  # a new key, or a new type of a known one
                rows = self._decoder.decode(records)
        if rows is None:
            self._infer(records)
            if self._odd:
                objects = OBJECTS.decode(records)
                return objects, lambda _, name: [record.get(name, MISSING) for record in objects]
            rows = self._decoder.decode(records)
        found = rows
        return found, lambda index, _: list(map(attrgetter(f"f{index}"), found))

    def _infer(self, records: bytes) -> None:
        """Infer each key's type from this page and those before it, and make the Struct anew."""
        try:
            objects = OBJECTS.decode(records)
        except msgspec.ValidationError:
            kinds = (bytes(record)[:1] for record in _ANYTHING.decode(records))
            wrong = next((index for index, first in enumerate(kinds) if first != b"{"), None)
            raise RecordError(f"record {wrong} of the page is not a JSON object, so it has no columns") from None
        self._check_number(objects)
        for record in objects:
            for name, raw in record.items():
                found, known = _decoding_of(bytes(raw)), self._decodings.get(name)
                self._decodings[name] = found if known is None else known if found in (None, known) else _ANY
        self.names.keys.update(self._decodings)
        if clash := sorted(self._nested & (self._decodings.keys() - self._dropped)):
            raise name_clash(clash[0])
        # A Struct cannot have such keys; from the first one on, records are decoded as dictionaries.
        self._odd = self._odd or any(ODD_KEY.search(name) for name in self._decodings)
        if self._odd:
            self._decodings = dict.fromkeys(self._decodings, _ANY)
            self._inferred = False
            return
        self._make_decoder()
        try:
            self._decoder.decode(records)
        except msgspec.ValidationError:
            # A key occurs twice in one object, with values of two types, of which the last counts.
            self._decodings = dict.fromkeys(self._decodings, _ANY)
            self._make_decoder()

    def _check_number(self, objects: Sequence[Mapping[str, msgspec.Raw]]) -> None:
        """Check the number of columns before a Struct is made of the keys, of which there may be as many as records."""
        if self._max_columns is None:
            return
        names = self._decodings.keys() | set().union(*objects)
        check_number(len(names - self._dropped) + len(self._nested), max_columns=self._max_columns)

    def _make_decoder(self) -> None:
        decodings = [decoding or _ANY for decoding in self._decodings.values()]
        members = [(f"f{index}", decoding.type, decoding.missing) for index, decoding in enumerate(decodings)]
        names = {f"f{index}": name for index, name in enumerate(self._decodings)}
        struct = msgspec.defstruct("Record", members, rename=names, forbid_unknown_fields=True, gc=False)
        self._decoder = msgspec.json.Decoder(list[struct])  # type: ignore[valid-type] # the type is made here
        self._inferred = True


def check_number(found: int, *, max_columns: int) -> None:
    """Check the number of columns.

    :raises RecordError: there are more than `max_columns`.
    """
    if found > max_columns:
        raise RecordError(
            f"the records have {found:,} different keys so far, each of which would be a column, and max_columns= allows "
            f"{max_columns:,}. Keys that are data, such as ids or dates, belong below one key, which is one column: ask for such "
            "records, leave keys out with drop_columns=, land JSON Lines, which have no columns, or raise max_columns="
        )


def name_clash(column: str) -> RecordError:
    """Return the error for a nested column that has the name of a key."""
    return RecordError(
        f"nested_columns= puts a nested value into {column!r}, and the records have a key of that name: choose another name"
    )


def _decoding_of(raw: bytes) -> _Decoding | None:
    """Return how a value is decoded; None for a null, from which nothing can be inferred."""
    match raw[:1]:
        case b"n":
            return None
        case b'"':
            return _TEXT
        case b"t" | b"f":
            return _BOOLEAN
        case b"{" | b"[":
            return _ANY
        case _:
            return _ANY if b"." in raw or b"e" in raw or b"E" in raw else _INTEGER
