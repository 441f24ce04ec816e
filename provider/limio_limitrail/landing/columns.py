# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A page's records become columns, in C wherever the records look like those before them.

What the keys of the records hold is learned from the records. What was learned becomes a msgspec Struct that refuses unknown
keys and other kinds of values, so that a page either fits it in full or is looked at again: nothing that came is ever skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import msgspec

from limio_limitrail.landing import arrow_tables as tables
from limio_limitrail.landing.column_types import Kind, arrow_field
from limio_limitrail.landing.errors import RecordError
from limio_limitrail.landing.field_names import FoundNames
from limio_limitrail.landing.nested_paths import ODD_KEY, NestedPath, NestedPathReader
from limio_limitrail.landing.timestamps import landed
from limio_limitrail.landing.values import from_booleans, from_integers, from_raw, from_texts

if TYPE_CHECKING:
    import pyarrow as pa

_OBJECTS = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_ANYTHING = msgspec.json.Decoder(list[msgspec.Raw])
_MISSING = msgspec.Raw(b"")


class _Shape(Enum):
    """How a key's values are decoded. ``ANY`` takes whatever comes, undecoded."""

    TEXT = "text"
    BOOLEAN = "boolean"
    INTEGER = "integer"
    ANY = "any"


_MEMBERS: dict[_Shape, tuple[Any, Any]] = {
    _Shape.TEXT: (str | None, None),
    _Shape.BOOLEAN: (bool | None, None),
    _Shape.INTEGER: (int | None, None),
    _Shape.ANY: (msgspec.Raw, _MISSING),
}


class ColumnReader:
    """Turn JSON arrays of records into Arrow tables, one column a key, each of the narrowest kind that fits the page.

    :param timestamps: the columns that become instants where every value in them is one that an instant in microseconds gives
        back; in a column of texts such values are written as `kinds.cast` writes instants.
    :param columns: nested values to lift into columns of their own, as column name → path.
    :param dropped: the columns to leave out.
    :param max_columns: the most columns that all pages together may have; ``None`` for any number.
    """

    def __init__(
        self,
        *,
        timestamps: Sequence[str] = (),
        columns: Mapping[str, NestedPath] | None = None,
        dropped: Sequence[str] = (),
        max_columns: int | None = None,
    ) -> None:
        self._timestamps = frozenset(timestamps)
        self._dropped = frozenset(dropped)
        nested_paths = {name: path for name, path in (columns or {}).items() if name not in self._dropped}
        self._lifts = NestedPathReader(nested_paths) if nested_paths else None
        self._lifted = frozenset(nested_paths)
        self._shapes: dict[str, _Shape | None] = {}
        self.names = FoundNames(self._dropped)
        self._decoder: msgspec.json.Decoder[list[Any]] = msgspec.json.Decoder(list[dict[str, Any]])
        self._max_columns = max_columns
        self._learned = False
        self._odd = False

    def read(self, records: bytes) -> pa.Table:
        """Read one page.

        :param records: a JSON array of objects.
        :return: the columns that have a value in this page, and those that no page before had.
        :raises RecordError: an element is no object, a lifted column has the name of a key, or there are too many columns.
        """
        import pyarrow as pa

        known = len(self._shapes)
        rows, values_of = self._decode(records)
        fields: list[pa.Field] = []
        arrays: list[pa.Array] = []

        def add(name: str, kind: Kind, array: pa.Array) -> None:
            if name in self._timestamps and kind is Kind.TEXT:
                kind, array = landed(array)
            fields.append(arrow_field(name=name, kind=kind))
            arrays.append(array)

        # Most pages have few of the columns where records differ in their keys: what is missing costs next to nothing.
        empty: list[tuple[str, _Shape, list[Any]]] = []
        for index, (name, shape) in enumerate(self._shapes.items()):
            if name in self._dropped:
                continue
            how, values = shape or _Shape.ANY, values_of(index, name)
            if index < known and values.count(_MEMBERS[how][1]) == len(values):
                empty.append((name, how, values))
            else:
                add(name, *_READERS[how](values))
        if not fields:
            for name, how, values in empty:
                add(name, *_READERS[how](values))
        if self._lifts is not None:
            lifted = self._lifts.read(records)
            self.names.see_lifted(lifted)
            for name, values in lifted.items():
                add(name, *from_raw(values))
        return pa.Table.from_arrays(arrays, schema=pa.schema(fields)) if fields else tables.without_columns(len(rows))

    def _decode(self, records: bytes) -> tuple[list[Any], Callable[[int, str], list[Any]]]:
        """Give the rows, and what gives a column's values by its place and its name."""
        rows: list[Any] | None = None
        if self._learned:
            with suppress(msgspec.ValidationError):  # a key or a kind of value that was not there before
                rows = self._decoder.decode(records)
        if rows is None:
            self._learn(records)
            if self._odd:
                objects = _OBJECTS.decode(records)
                return objects, lambda _, name: [record.get(name, _MISSING) for record in objects]
            rows = self._decoder.decode(records)
        found = rows
        return found, lambda index, _: list(map(attrgetter(f"f{index}"), found))

    def _learn(self, records: bytes) -> None:
        """Widen what is known of each key by what this page holds, and make the Struct anew."""
        try:
            objects = _OBJECTS.decode(records)
        except msgspec.ValidationError:
            kinds = (bytes(record)[:1] for record in _ANYTHING.decode(records))
            wrong = next((index for index, first in enumerate(kinds) if first != b"{"), None)
            raise RecordError(f"record {wrong} of the page is no JSON object, so it has no columns") from None
        self._check_number(objects)
        for record in objects:
            for name, raw in record.items():
                shape = _shape_of(bytes(raw))
                known = self._shapes.get(name)
                self._shapes[name] = shape if known is None else known if shape in (None, known) else _Shape.ANY
        self.names.see_keys(self._shapes)
        if clash := sorted(self._lifted & (self._shapes.keys() - self._dropped)):
            raise RecordError(
                f"columns= lifts a nested value into {clash[0]!r}, and the records have a key of that name: choose another name"
            )
        # A Struct cannot have such keys; from the first one on, records are taken apart as dictionaries.
        self._odd = self._odd or any(ODD_KEY.search(name) for name in self._shapes)
        if self._odd:
            self._shapes = dict.fromkeys(self._shapes, _Shape.ANY)
            self._learned = False
            return
        self._make_decoder()
        try:
            self._decoder.decode(records)
        except msgspec.ValidationError:
            # A key that stands twice in one object, with two kinds of values: of such a key the last value counts.
            self._shapes = dict.fromkeys(self._shapes, _Shape.ANY)
            self._make_decoder()

    def _check_number(self, objects: Sequence[Mapping[str, msgspec.Raw]]) -> None:
        """Refuse a page before anything is made of its keys, which may be as many as its records."""
        if self._max_columns is None:
            return
        names = self._shapes.keys() | set().union(*objects)
        check_number(len(names - self._dropped) + len(self._lifted), max_columns=self._max_columns)

    def _make_decoder(self) -> None:
        members = [(f"f{index}", *_MEMBERS[shape or _Shape.ANY]) for index, shape in enumerate(self._shapes.values())]
        names = {f"f{index}": name for index, name in enumerate(self._shapes)}
        struct = msgspec.defstruct("Record", members, rename=names, forbid_unknown_fields=True, gc=False)
        self._decoder = msgspec.json.Decoder(list[struct])  # type: ignore[valid-type] # the type is made here
        self._learned = True


def check_number(found: int, *, max_columns: int) -> None:
    """Refuse more columns than are allowed.

    :raises RecordError: there are more.
    """
    if found > max_columns:
        raise RecordError(
            f"the records have {found:,} different keys so far, each of which would be a column, and max_columns= allows "
            f"{max_columns:,}. Keys that are data, such as ids or dates, belong below one key, which is one column: ask for such "
            "records, leave keys out with drop_columns=, land JSON Lines, which have no columns, or raise max_columns="
        )


def _shape_of(raw: bytes) -> _Shape | None:
    """Say how a value is decoded; none for a null, which tells nothing."""
    match raw[:1]:
        case b"n":
            return None
        case b'"':
            return _Shape.TEXT
        case b"t" | b"f":
            return _Shape.BOOLEAN
        case b"{" | b"[":
            return _Shape.ANY
        case _:
            return _Shape.ANY if b"." in raw or b"e" in raw or b"E" in raw else _Shape.INTEGER


_READERS: dict[_Shape, Callable[[list[Any]], tuple[Kind, pa.Array]]] = {
    _Shape.TEXT: from_texts,
    _Shape.BOOLEAN: from_booleans,
    _Shape.INTEGER: from_integers,
    _Shape.ANY: lambda raws: from_raw([bytes(raw) or None for raw in raws]),
}
