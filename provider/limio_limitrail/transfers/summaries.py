# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The summaries that pulls return: what XCom and the asset events of the outlets hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NotRequired, TypedDict

if TYPE_CHECKING:
    from limio_limitrail.landing.sql import LoadResult


class PullTotals(TypedDict):
    """What all summaries of pulls hold; see `PullSummary`."""

    resource: str
    rows: int
    pages: int
    parts: int
    columns_not_found: list[str]
    since: str | None
    until: NotRequired[str | None]
    reason: str
    watermark: str | None
    requests: int
    retries: int
    tokens: int
    waited: float
    seconds: float


class PullSummary(PullTotals):
    """What ``LimioToObjectStorageOperator`` and ``LimitRailToObjectStorageOperator`` return.

    :param resource: the name of the list.
    :param rows: the records.
    :param pages: the pages that held them.
    :param parts: the files.
    :param folder: the URL of the run's folder.
    :param manifest: the URL of the manifest in it.
    :param columns_not_found: the first names of ``drop_columns`` and ``nested_columns`` that no record has, and the first
        child tables whose list none has.
    :param since: the lower bound of the time range, in ISO 8601; None for everything.
    :param until: the upper bound; absent if there is none.
    :param reason: where the time range comes from.
    :param watermark: where the watermark is now; None if there is none.
    :param requests: requests to the API.
    :param retries: those of them that were repeated.
    :param tokens: OAuth tokens that were minted.
    :param waited: seconds waited between tries.
    :param seconds: seconds of the whole work.
    """

    folder: str
    manifest: str


class ChildTableSummary(TypedDict):
    """What a load did to a child table.

    :param rows: the elements that came.
    :param inserted: rows that are new, or whose list changed.
    :param unchanged: rows that were there as they came.
    :param deleted: rows of lists that changed; with ``mode="replace"``, and of a repeated run, all former ones.
    :param columns_added: the first names of new columns.
    :param columns_widened: the first names of columns that have a wider type now.
    :param columns_ignored: the first names of members that were left out, because of ``new_columns="ignore"``.
    """

    rows: int
    inserted: int
    unchanged: int
    deleted: int
    columns_added: list[str]
    columns_widened: list[str]
    columns_ignored: list[str]


class LoadTotals(TypedDict):
    """What a load did; see `LoadSummary`."""

    inserted: int
    updated: int
    unchanged: int
    outdated: int
    deleted: int
    marked: int
    returned: int
    missing_checked: bool
    duplicates: int
    columns_added: list[str]
    columns_widened: list[str]
    columns_ignored: list[str]
    child_tables: NotRequired[dict[str, ChildTableSummary]]


class LoadSummary(PullTotals, LoadTotals):
    """What ``LimioToSqlOperator`` and ``LimitRailToSqlOperator`` return. Other members as in `PullSummary`.

    :param table: the table.
    :param inserted: rows that are new.
    :param updated: rows that were replaced by newer ones.
    :param unchanged: rows that were there as they came.
    :param outdated: rows that came older than the table's, which stays as it is.
    :param deleted: rows that ``mode="replace"``, a repeated run, or ``on_missing="delete"`` removed.
    :param marked: rows that ``on_missing="mark"`` marked.
    :param returned: marked rows whose records came again; they count as updated, unchanged or outdated as well.
    :param missing_checked: whether this run looked for rows that the list no longer has.
    :param duplicates: records that came more than once.
    :param columns_added: the first names of new columns.
    :param columns_widened: the first names of columns that have a wider type now.
    :param columns_ignored: the first names of keys of the records that were left out, because of ``new_columns="ignore"``.
    :param dry_run: whether nothing of this was committed.
    :param partitions: the first partition keys that were sent; empty without ``partition_column``.
    :param child_tables: child table → what was done there; absent without ``child_tables``.
    """

    table: str
    dry_run: bool
    partitions: list[str]


class DltSummary(PullTotals):
    """What ``LimioToDltOperator`` and ``LimitRailToDltOperator`` return. Other members as in `PullSummary`.

    :param destination: dlt's name of the destination.
    :param table: the table with its dataset.
    :param duplicates: records that came more than once.
    :param rows_before: rows of the table before the load.
    :param rows_after: rows of the table after it.
    :param columns_added: the first names of new columns.
    :param columns_widened: the first names of columns that have a wider type now.
    :param columns_ignored: the first names of keys of the records that were left out, because of ``new_columns="ignore"``.
    """

    destination: str
    table: str
    duplicates: int
    rows_before: int
    rows_after: int
    columns_added: list[str]
    columns_widened: list[str]
    columns_ignored: list[str]


def load_totals(result: LoadResult) -> LoadTotals:
    """Return what a load did, for its summary."""
    totals = LoadTotals(
        inserted=result.inserted,
        updated=result.updated,
        unchanged=result.unchanged,
        outdated=result.outdated,
        deleted=result.deleted,
        marked=result.marked,
        returned=result.returned,
        missing_checked=result.missing_checked,
        duplicates=result.duplicates,
        columns_added=first_names(result.columns_added),
        columns_widened=first_names(result.columns_widened),
        columns_ignored=first_names(result.columns_ignored),
    )
    if result.child_tables:
        totals["child_tables"] = {table: _child_summary(child) for table, child in result.child_tables.items()}
    return totals


def _child_summary(result: LoadResult) -> ChildTableSummary:
    return ChildTableSummary(
        rows=result.rows,
        inserted=result.inserted,
        unchanged=result.unchanged,
        deleted=result.deleted,
        columns_added=first_names(result.columns_added),
        columns_widened=first_names(result.columns_widened),
        columns_ignored=first_names(result.columns_ignored),
    )


def first_names(names: Sequence[str]) -> list[str]:
    """Return the first few of what may be hundreds of names, for a summary that stays small."""
    from limio_limitrail.api.redact import safe_text

    shown = [(safe_text(name) or "")[:60] for name in names[:8]]
    return shown if len(names) <= len(shown) else [*shown, f"and {len(names) - len(shown)} more"]
