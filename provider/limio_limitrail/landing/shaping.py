# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""How records become the rows of a part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from limio_limitrail.landing.child_lists import ChildList
from limio_limitrail.landing.nested_paths import NestedPath, path_parts
from limio_limitrail.troubleshooting import ExplainedError

if TYPE_CHECKING:
    import pandas as pd

Transform: TypeAlias = "Callable[[pd.DataFrame], pd.DataFrame]"
"""Is called with each part as a pandas frame, and returns the frame to store."""


class RecordError(ExplainedError, ValueError):
    """Records cannot become a part. The message says where and what to do, and holds no value of any record."""


class Shaping(msgspec.Struct, frozen=True, kw_only=True):
    """How records become the rows of a part.

    :param time_column: the column whose newest value the pull reports.
    :param time_path: where that value is in a record.
    :param timestamps: the columns to store as timestamps.
    :param nested_columns: nested values to store as columns, as column name → path.
    :param dropped: the columns to leave out.
    :param transform: the function that each part goes through.
    :param max_columns: the most columns that the pull may have, and each child table; None for any number.
    :param children: the nested lists whose elements become rows of child tables.
    :param key: the columns that identify a row where it is loaded; empty where nothing does.
    :param record_key: the columns that identify a record, likewise.
    """

    time_column: str | None = None
    time_path: NestedPath | None = None
    timestamps: Sequence[str] = ()
    nested_columns: Mapping[str, NestedPath] = msgspec.field(default_factory=dict)
    dropped: Sequence[str] = ()
    transform: Transform | None = None
    max_columns: int | None = None
    children: tuple[ChildList, ...] = ()
    key: tuple[str, ...] = ()
    record_key: tuple[str, ...] = ()

    @property
    def stores_time(self) -> bool:
        """Whether the time column holds the value at the time's path."""
        if self.time_column is None or self.time_path is None or self.time_column in self.dropped:
            return False
        path = self.nested_columns.get(self.time_column, (self.time_column,))
        return path_parts(path) == path_parts(self.time_path)
