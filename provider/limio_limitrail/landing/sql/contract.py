# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The contract of a table: whether loads may add and widen its columns, and which columns a pull must bring."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql.model import LandingError
from limio_limitrail.landing.sql.names import TableName

if TYPE_CHECKING:
    from limio_limitrail.landing.sql.plan import ColumnPlan, LoadPlan
    from limio_limitrail.landing.sql.session import Session

log = logging.getLogger("limio_limitrail.landing.sql")

_MOST_NAMED = 8


class ContractError(LandingError):
    """A pull breaks the contract of its table, or a check of the loaded rows failed; the table is as it was."""


class NewColumns(StrEnum):
    """What happens to record keys for which an existing table has no column."""

    ADD = "add"
    """The table gains them."""
    IGNORE = "ignore"
    """They are left out."""
    FAIL = "fail"
    """The load fails."""


class TypeChanges(StrEnum):
    """What happens where a column of the table is too narrow for the values that come."""

    WIDEN = "widen"
    """The column becomes wider."""
    FAIL = "fail"
    """The load fails."""


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What a load may change of an existing table's columns, and what it must bring.

    ``_extracted_at`` and ``_run_id`` are not part of it: every load needs them, and adds them where they are missing.

    :param new_columns: what happens to record keys without a column.
    :param type_changes: what happens where a column is too narrow.
    :param required_columns: record keys that some record must have a value for, unless no record comes.
    """

    new_columns: NewColumns = NewColumns.ADD
    type_changes: TypeChanges = TypeChanges.WIDEN
    required_columns: tuple[str, ...] = ()

    def fit(self, plan: LoadPlan, *, needed: Collection[str]) -> LoadPlan:
        """Return the plan without the columns that are to be ignored.

        :param needed: record keys that the load itself needs: the primary key and the time column.
        :raises ContractError: there are new columns that the table must not gain, or cannot do without; or no others, so that
            nothing would be left of the records.
        """
        new = {column.key: column for column in plan.columns if column.existing is None} if plan.exists else {}
        if not new or self.new_columns is NewColumns.ADD:
            return plan
        if self.new_columns is NewColumns.FAIL:
            described = _listed([f"{column.name!r} ({column.incoming})" for column in new.values()])
            raise ContractError(
                f"{plan.table}: the records have columns that the table lacks: {described}. Nothing was written, because of "
                f'new_columns="fail". Add them to the table, leave them out with drop_columns=, or set new_columns to "add" or '
                f'"ignore"'
            )
        if missing := [key for key in needed if key in new]:
            raise ContractError(
                f"{plan.table}: the table has no column {missing[0]!r}, which is part of the primary key or the time column, so "
                f'new_columns="ignore" cannot leave it out. Nothing was written. Add the column to the table, or name others in '
                f"primary_key= and time_column="
            )
        if len(new) == len(plan.columns):
            raise ContractError(
                f"{plan.table}: the table has none of the records' columns: {_listed(map(repr, new))}, so that "
                f'new_columns="ignore" would leave nothing of them. Nothing was written. Load into another table, or add the '
                f"columns to this one"
            )
        log.info("%s: columns of the records that the table lacks are ignored: %s", plan.table, _listed(map(repr, new)))
        kept = tuple(column for column in plan.columns if column.key not in new)
        return replace(plan, columns=kept, ignored=tuple(new))

    def check_types(self, plan: LoadPlan, *, types: Mapping[Kind, str]) -> None:
        """Refuse to widen columns, if the contract does.

        :param types: the database's type of each kind.
        :raises ContractError: a column of the table is too narrow.
        """
        if self.type_changes is TypeChanges.WIDEN:
            return
        changes = [
            f"{column.name!r} is {column.existing.type} and would become {types[column.kind]}"
            for column in plan.columns
            if column.widens and column.existing is not None
        ]
        if changes:
            raise ContractError(
                f"{plan.table}: columns are too narrow for the values that came: {_listed(changes)}. Nothing was written, "
                f'because of type_changes="fail". Change the columns, leave them out with drop_columns=, or set type_changes to '
                f'"widen"'
            )

    def check_required(self, plan: LoadPlan, *, session: Session, relation: str, staged: bool) -> None:
        """Refuse rows that have no value in a required column.

        :param relation: the staging table, or the table itself if the rows are there; as SQL. It is not empty.
        :param staged: whether it is the staging table.
        :raises ContractError: a required column is not there, or is empty in all rows.
        """
        if not self.required_columns:
            return
        found = {key: column for key in self.required_columns if (column := plan.column(key)) is not None}
        if missing := [key for key in self.required_columns if key not in found]:
            raise self._unmet(plan.table, missing, "are in no record", hint=_similar(missing[0], plan=plan))
        names = [_name(column, session=session, staged=staged) for column in found.values()]
        [counts] = session.query(f"SELECT {', '.join(f'count({name})' for name in names)} FROM {relation}")
        if empty := [key for key, count in zip(found, counts, strict=True) if not count]:
            raise self._unmet(plan.table, empty, "have no value in any record")

    def _unmet(self, table: TableName, names: list[str], what: str, *, hint: str = "") -> ContractError:
        return ContractError(
            f"{table}: columns of required_columns= {what}: {_listed(map(repr, names))}{hint}. Nothing was written. A retry "
            f"pulls the list again; if the API no longer sends them, take them out of required_columns="
        )


EVOLVE = Contract()
"""Tables gain columns, and columns become wider."""


def _name(column: ColumnPlan, *, session: Session, staged: bool) -> str:
    return column.staged if staged else session.dialect.quote(column.name)


def _similar(name: str, *, plan: LoadPlan) -> str:
    if name in plan.ignored:
        return f' ({name!r} is, but the table lacks it, and new_columns="ignore" leaves it out)'
    known = [column.key for column in plan.columns]
    lowered = {key.casefold(): key for key in known}
    close = difflib.get_close_matches(name.casefold(), lowered, n=3, cutoff=0.7)
    return f" (they have {_listed(repr(lowered[key]) for key in close)})" if close else ""


def _listed(texts: Iterable[str]) -> str:
    shown = [text[:100] for text in texts]
    return ", ".join(shown[:_MOST_NAMED]) + (f" and {len(shown) - _MOST_NAMED} more" if len(shown) > _MOST_NAMED else "")
