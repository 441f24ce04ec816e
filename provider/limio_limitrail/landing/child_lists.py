# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Nested lists whose elements become the rows of child tables, and the columns of such tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from limio_limitrail.landing.nested_paths import NestedPath

POSITION = "_position"
"""The column with the position of an element in its list, from 0."""

VALUE = "value"
"""The column of elements that are not objects."""

PARENT_ROW = "_parent_row"
"""The column of a part, not of the table, with the number of the parent's row in the parent's part."""


def parent_column(name: str) -> str:
    """Return the child table's column that repeats a column of the parent's key: ``_parent_id`` for ``id``."""
    return f"_parent_{name.removeprefix('_')}"


class ChildList(msgspec.Struct, frozen=True, kw_only=True):
    """A nested list, and the child table of its elements.

    :param table: the child table, as the user wrote it.
    :param path: where the list is in its parent, which is a record, or an element of another list.
    :param parent_key: the columns that identify a parent.
    :param key: the members that identify an element in its list; empty for its position.
    :param children: lists within the elements.
    """

    table: str
    path: NestedPath
    parent_key: tuple[str, ...]
    key: tuple[str, ...] = ()
    children: tuple[ChildList, ...] = ()

    @property
    def parent_columns(self) -> tuple[str, ...]:
        """The columns that repeat the parent's key, in its order."""
        return tuple(map(parent_column, self.parent_key))

    @property
    def row_key(self) -> tuple[str, ...]:
        """The columns that identify a row."""
        return (*self.parent_columns, *(self.key or (POSITION,)))

    def column_of(self, member: str) -> str:
        """Return the column of an element's member: its name, unless the child table needs that for itself."""
        return f"_element{member}" if member in (PARENT_ROW, POSITION, *self.parent_columns) else member


def all_lists(children: Sequence[ChildList]) -> Iterator[ChildList]:
    """Yield all lists, each before those within its elements. Checkpoints, manifests and file names have this order."""
    for child in children:
        yield child
        yield from all_lists(child.children)
