# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Checks of column names: names from the task that no record has are logged, or refused before anything is loaded."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec

from limio_limitrail.api.errors import ParameterError, ProtocolError
from limio_limitrail.api.redact import holds_secret, safe_text
from limio_limitrail.api.request_context import RequestContext

if TYPE_CHECKING:
    from limio_limitrail.landing.column_types import Kind
    from limio_limitrail.landing.nested_paths import NestedPath

log = logging.getLogger("limio_limitrail.transfers")


class NeededColumns(msgspec.Struct, frozen=True, kw_only=True):
    """The columns that a table needs.

    :param key: the primary key.
    :param key_given: whether the task names the key; else the resource does.
    :param merges: whether each row must have the key.
    :param time_column: the time column that the task names.
    """

    key: tuple[str, ...]
    key_given: bool
    merges: bool
    time_column: str | None


@dataclass(frozen=True)
class ColumnNameChecks:
    """Compares the column names of a task with those of the records.

    :param api: the API's name as people know it.
    :param resource: what is pulled.
    :param dropped: the columns to leave out.
    :param nested: the nested columns that the task names, as column name → path.
    :param all_nested: all nested columns; one of them may be dropped, too.
    :param needed: what a table needs; None for files.
    """

    api: str
    resource: str
    dropped: tuple[str, ...]
    nested: Mapping[str, NestedPath]
    all_nested: Collection[str]
    needed: NeededColumns | None = None

    @cached_property
    def watched(self) -> tuple[str, ...]:
        """The columns to drop and the nested columns that are looked for in the records."""
        return (
            *(name for name in self.dropped if name not in self.all_nested),
            *(name for name in self.nested if name not in self.dropped),
        )

    def check_part(self, schema: Mapping[str, Kind]) -> None:
        """Refuse a part without the key, into which no row can be merged, or with a column that cannot be named anywhere.

        :raises ParameterError: a column of the key is missing.
        :raises ProtocolError: the name of a column repeats a credential.
        """
        self._check_secrets(schema)
        if self.needed is not None and self.needed.merges:
            self._check_key(self.needed, schema)

    def check_names(self, schema: Mapping[str, Kind]) -> None:
        """Refuse a column of a child table that cannot be named anywhere.

        :raises ProtocolError: the name of a column repeats a credential.
        """
        self._check_secrets(schema)

    def check_all(self, schema: Mapping[str, Kind], *, found: Collection[str], keys: Collection[str]) -> None:
        """Refuse or log names that no record had.

        :param schema: the columns; empty for JSON Lines.
        :param found: those of the watched names that some record had.
        :param keys: keys that records had.
        :raises ParameterError: the key, or the time column that the task names, is not there; or a column that should have been
            left out is there in another spelling.
        """
        landing = [name for name in dict.fromkeys((*schema, *sorted(keys))) if name not in self.dropped]
        missing = [name for name in self.watched if name not in found]
        for name in missing:
            self._report_missing(name, landing)
        if self.needed is None:
            return
        self._check_key(self.needed, schema)
        column = self.needed.time_column
        if column is not None and column not in schema:
            raise ParameterError(
                f"time_column names {column!r}, which no record of {self.resource!r} has{_similar(column, schema)}. Nothing was "
                "loaded: correct the name, or leave time_column out"
            )

    def _check_secrets(self, schema: Mapping[str, Kind]) -> None:
        """Refuse a name that must not get into state stores, lineage and logs."""
        if any(holds_secret(name) for name in schema):
            reason = "a key of its records repeats a credential, and can be no column's name. Nothing was handed on"
            raise ProtocolError(RequestContext(api=self.api, resource=self.resource, reason=reason))

    def _report_missing(self, name: str, landing: list[str]) -> None:
        if name in self.nested:
            log.warning(
                "%s: nested_columns= reads %r from %r, which leads to nothing in any record, so that the column is empty%s.",
                self.resource,
                name,
                self.nested[name],
                _similar(name, landing),
            )
            return
        if respelt := [other for other in landing if _normalized(other) == _normalized(name) and other != name]:
            raise ParameterError(
                f"drop_columns names {name!r}, which no record of {self.resource!r} has; they have {_quoted(respelt)}, which "
                "would land. Nothing was handed on: correct the name"
            )
        log.warning(
            "%s: drop_columns names %r, which no record has, so that nothing was left out for it%s.",
            self.resource,
            name,
            _similar(name, landing),
        )

    def _check_key(self, needed: NeededColumns, schema: Mapping[str, Kind]) -> None:
        for column in needed.key:
            if column in schema:
                continue
            if needed.key_given:
                raise ParameterError(
                    f"primary_key names {column!r}, which records of {self.resource!r} do not have{_similar(column, schema)}. "
                    "Nothing was loaded: correct the name"
                )
            if needed.merges:
                raise ParameterError(
                    f"the records of {self.resource!r} do not have the column {column!r} of its primary key"
                    f"{_similar(column, schema)}. Nothing was loaded: give primary_key=[...], or another mode"
                )
            log.warning(
                "%s: no record has the column %r of its primary key, so that records that come twice are not noticed%s.",
                self.resource,
                column,
                _similar(column, schema),
            )


def _normalized(name: str) -> str:
    """Return a name without case, blanks and punctuation."""
    return re.sub(r"[\W_]+", "", name).casefold() or name


def _similar(name: str, others: Iterable[str]) -> str:
    """Return a hint at similar names, as the end of a sentence."""
    from difflib import get_close_matches

    known = list(others)
    respelt = [other for other in known if _normalized(other) == _normalized(name)]
    close = respelt or get_close_matches(name, known, n=3, cutoff=0.7)
    return f" (they have {_quoted(close)})" if close else ""


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(repr((safe_text(name) or "")[:60]) for name in names)
