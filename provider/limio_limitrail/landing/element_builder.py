# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Builds the part of a child table from the elements of a nested list, beside the part of the parent.

The value at the path is the list. Another value than a list counts as a list of this one element; a null, or no value, as an
empty list. Members of elements become columns by the rules of records.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING

import msgspec

from limio_limitrail.landing.arrow_tables import integer_array, stack
from limio_limitrail.landing.child_lists import PARENT_ROW, POSITION, VALUE, ChildList
from limio_limitrail.landing.column_types import Kind, arrow_field
from limio_limitrail.landing.columns import ColumnReader
from limio_limitrail.landing.nested_paths import NestedPathReader
from limio_limitrail.landing.row_group_writer import GROUP_ROWS, GROUP_SIZE, RowGroupWriter
from limio_limitrail.landing.shaping import RecordError

if TYPE_CHECKING:
    import pyarrow as pa

    from limio_limitrail.landing.parts import PartFormat

_LISTS = msgspec.json.Decoder(list[list[msgspec.Raw]])
_WRAPPED = f'{{"{VALUE}":'.encode()


class Elements(msgspec.Struct, frozen=True, kw_only=True):
    """The elements of one list in a part of its parents.

    :param data: the bytes of their file; empty if there are none.
    :param rows: how many there are.
    :param schema: the columns of the child table and their kinds.
    :param found: whether the path led to a value in some parent, if only to a null.
    """

    data: bytes
    rows: int
    schema: Mapping[str, Kind]
    found: bool


class ElementBuilder:
    """Builds one part of a child table after another: `add` adds a page of parents, `finish` ends the part.

    :param child: the list.
    :param part_format: the format of the part, as its parents'.
    :param max_columns: the most columns that its elements may have; None for any number.
    """

    def __init__(self, child: ChildList, *, part_format: PartFormat, max_columns: int | None) -> None:
        self._list = child
        self._lists = NestedPathReader({VALUE: child.path})
        self._columns = ColumnReader(max_columns=max_columns)
        self._children = [ElementBuilder(inner, part_format=part_format, max_columns=max_columns) for inner in child.children]
        self._groups = RowGroupWriter(part_format)
        self._begin()

    def _begin(self) -> None:
        self._tables: list[pa.Table] = []
        self._parents = self._rows = self._group_rows = self._group_size = 0
        self._found = False

    def add(self, records: bytes, *, parents: pa.Table) -> None:
        """Add the elements of a page.

        :param records: a JSON array of the parents.
        :param parents: their columns, among them those of the key that have a value.
        :raises RecordError: the elements have too many members.
        """
        first_row, self._parents = self._parents, self._parents + parents.num_rows
        values = self._lists.read(records)[VALUE]
        self._found = self._found or values.count(None) < len(values)
        lists = _elements(values)
        counts = list(map(len, lists))
        total = sum(counts)
        if not total:
            return
        content = b"[" + b",".join(map(_as_object, chain.from_iterable(lists))) + b"]"
        rows = list(chain.from_iterable([row] * count for row, count in enumerate(counts)))
        table = self._table(content, rows=rows, positions=list(chain.from_iterable(map(range, counts))), parents=parents)
        table = table.append_column(
            arrow_field(name=PARENT_ROW, kind=Kind.INTEGER), integer_array([first_row + row for row in rows])
        )
        for inner in self._children:
            inner.add(content, parents=table)
        self._tables.append(table)
        self._group_rows += total
        self._group_size += len(content)
        if self._group_rows >= GROUP_ROWS or self._group_size >= GROUP_SIZE:
            self._end_group()

    def _table(self, content: bytes, *, rows: list[int], positions: list[int], parents: pa.Table) -> pa.Table:
        """Return the columns of the child table: the parents' key, the position and the members."""
        import pyarrow as pa

        try:
            members = self._columns.read(content)
        except RecordError as error:
            raise RecordError(f"child table {self._list.table!r}: {error.what}") from None
        taken = integer_array(rows)
        fields: list[pa.Field] = []
        arrays: list[pa.ChunkedArray] = []
        for key, name in zip(self._list.parent_key, self._list.parent_columns, strict=True):
            # A page on which all are null may lack the column.
            if key in parents.column_names:
                fields.append(parents.schema.field(key).with_name(name))
                arrays.append(parents.column(key).take(taken))
        fields.append(arrow_field(name=POSITION, kind=Kind.INTEGER))
        arrays.append(pa.chunked_array([integer_array(positions)]))
        for field, array in zip(members.schema, members.columns, strict=True):
            fields.append(field.with_name(self._list.column_of(field.name)))
            arrays.append(array)
        names = [field.name for field in fields]
        if len(set(names)) < len(names):
            raise RecordError(
                f"child table {self._list.table!r}: two members of an element, or one and a column of the table's own, have the "
                f"same name"
            )
        return pa.Table.from_arrays(arrays, schema=pa.schema(fields))

    def _end_group(self) -> None:
        self._groups.add(stack(self._tables))
        self._tables = []
        self._rows += self._group_rows
        self._group_rows = self._group_size = 0

    def finish(self) -> Iterator[Elements]:
        """End the part, and begin the next.

        :return: the elements of the list, then those of the lists within them, in the order of `all_lists`.
        """
        if self._tables:
            self._end_group()
        schema = {name: kind for name, kind in self._groups.schema.items() if name != PARENT_ROW}
        rows, found = self._rows, self._found
        yield Elements(data=self._groups.finish() if rows else b"", rows=rows, schema=schema, found=found)
        self._begin()
        for inner in self._children:
            yield from inner.finish()


def _elements(values: Sequence[bytes | None]) -> list[list[msgspec.Raw]]:
    """Return the elements of each list."""
    texts = [_as_list(value) for value in values]
    return _LISTS.decode(b"[" + b",".join(texts) + b"]")


def _as_list(value: bytes | None) -> bytes:
    if value is None or value == b"null":
        return b"[]"
    return value if value[:1] == b"[" else b"[" + value + b"]"


def _as_object(element: msgspec.Raw) -> bytes:
    text = bytes(element)
    return text if text[:1] == b"{" else _WRAPPED + text + b"}"
