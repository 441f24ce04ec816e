# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A page's records become columns, in C wherever the records look like those before them.

What the keys of the records hold is learned from the records. What was learned becomes a msgspec Struct that refuses unknown keys and other
kinds of values, so that a page either fits it in full or is looked at again: nothing that came is ever skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import msgspec

from limio_limitrail.landing.errors import RecordError
from limio_limitrail.landing.kinds import Kind, arrow_field
from limio_limitrail.landing.lifts import LiftPath, LiftReader
from limio_limitrail.landing.values import from_booleans, from_integers, from_raw, from_texts, to_instants

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

    :param timestamps: the columns that become instants where every value in them is one.
    :param columns: nested values to lift into columns of their own, as column name → path.
    :param dropped: the columns to leave out.
    """

    def __init__(
        self,
        *,
        timestamps: Sequence[str] = (),
        columns: Mapping[str, LiftPath] | None = None,
        dropped: Sequence[str] = (),
    ) -> None:
        self._timestamps = frozenset(timestamps)
        self._dropped = frozenset(dropped)
        lifts = {name: path for name, path in (columns or {}).items() if name not in self._dropped}
        self._lifts = LiftReader(lifts) if lifts else None
        self._lifted = frozenset(lifts)
        self._shapes: dict[str, _Shape | None] = {}
        self._decoder: msgspec.json.Decoder[list[Any]] = msgspec.json.Decoder(list[dict[str, Any]])
        self._learned = False

    def read(self, records: bytes) -> pa.Table:
        """Read one page.

        :param records: a JSON array of objects.
        :raises RecordError: an element is no object, or a lifted column has the name of a key.
        """
        import pyarrow as pa

        rows = self._decode(records)
        fields: list[pa.Field] = []
        arrays: list[pa.Array] = []

        def add(name: str, kind: Kind, array: pa.Array) -> None:
            if name in self._timestamps and kind is Kind.TEXT and (instants := to_instants(array)) is not None:
                kind, array = Kind.TIMESTAMP, instants
            fields.append(arrow_field(name=name, kind=kind))
            arrays.append(array)

        for index, (name, shape) in enumerate(self._shapes.items()):
            if name not in self._dropped:
                add(name, *_READERS[shape or _Shape.ANY](list(map(attrgetter(f"f{index}"), rows))))
        if self._lifts is not None:
            for name, values in self._lifts.read(records).items():
                add(name, *from_raw(values))
        # Without a column of its own a table of records without keys would forget how many there were.
        table = pa.Table.from_arrays(arrays, schema=pa.schema(fields))
        if not fields and rows:
            raise RecordError("the records have no columns left: they are empty objects, or drop_columns names every key")
        return table

    def _decode(self, records: bytes) -> list[Any]:
        if self._learned:
            try:
                return self._decoder.decode(records)
            except msgspec.ValidationError:
                pass  # a key or a kind of value that was not there before
        self._learn(records)
        return self._decoder.decode(records)

    def _learn(self, records: bytes) -> None:
        """Widen what is known of each key by what this page holds, and make the Struct anew."""
        try:
            objects = _OBJECTS.decode(records)
        except msgspec.ValidationError:
            kinds = (bytes(record)[:1] for record in _ANYTHING.decode(records))
            wrong = next((index for index, first in enumerate(kinds) if first != b"{"), None)
            raise RecordError(f"record {wrong} of the page is no JSON object, so it has no columns") from None
        for record in objects:
            for name, raw in record.items():
                shape = _shape_of(bytes(raw))
                known = self._shapes.get(name)
                self._shapes[name] = shape if known is None else known if shape in (None, known) else _Shape.ANY
        if clash := sorted(self._lifted & (self._shapes.keys() - self._dropped)):
            raise RecordError(
                f"columns= lifts a nested value into {clash[0]!r}, and the records have a key of that name: choose another name"
            )
        self._make_decoder()
        try:
            self._decoder.decode(records)
        except msgspec.ValidationError:
            # A key that stands twice in one object, with two kinds of values: of such a key the last value counts, as JSON has it.
            self._shapes = dict.fromkeys(self._shapes, _Shape.ANY)
            self._make_decoder()

    def _make_decoder(self) -> None:
        members = [(f"f{index}", *_MEMBERS[shape or _Shape.ANY]) for index, shape in enumerate(self._shapes.values())]
        names = {f"f{index}": name for index, name in enumerate(self._shapes)}
        struct = msgspec.defstruct("Record", members, rename=names, forbid_unknown_fields=True, gc=False)
        self._decoder = msgspec.json.Decoder(list[struct])  # type: ignore[valid-type] # the type is made here
        self._learned = True


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
