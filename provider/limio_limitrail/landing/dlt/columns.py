# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Which column each record key goes to in a warehouse, and of which of dlt's types it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from limio_limitrail.landing.column_types import Kind, widen
from limio_limitrail.landing.sql.contract import Contract
from limio_limitrail.landing.sql.dialect import TableColumn
from limio_limitrail.landing.sql.metadata import MetadataColumn
from limio_limitrail.landing.sql.model import LandingError
from limio_limitrail.landing.sql.names import TableName, column_names
from limio_limitrail.landing.sql.plan import ColumnPlan, LoadPlan

DATA_TYPES: Mapping[Kind, str] = {
    Kind.NULL: "text",
    Kind.BOOLEAN: "bool",
    Kind.INTEGER: "bigint",
    Kind.BIGINT: "bigint",
    Kind.DOUBLE: "double",
    Kind.TIMESTAMP: "timestamp",
    Kind.TEXT: "text",
    Kind.JSON: "json",
}
"""dlt's type of each kind."""

_KINDS: Mapping[str, Kind] = {
    "bool": Kind.BOOLEAN,
    # Whether a table's integers all fit into doubles is not known.
    "bigint": Kind.BIGINT,
    "double": Kind.DOUBLE,
    "timestamp": Kind.TIMESTAMP,
    "text": Kind.TEXT,
    "json": Kind.JSON,
}

COMPARABLE = frozenset({Kind.TIMESTAMP, Kind.INTEGER, Kind.BIGINT, Kind.DOUBLE})
"""Kinds of a time column that SQL orders as times are ordered."""


def make_plan(
    *,
    table: TableName,
    present: Mapping[str, Mapping[str, Any]],
    schema: Mapping[str, Kind],
    metadata: Sequence[MetadataColumn],
    same: Callable[[str], str],
    fits_double: Callable[[str], bool],
) -> LoadPlan:
    """Decide on every column.

    :param present: the columns of the table, as dlt describes them; empty if the table does not exist.
    :param schema: record key → the widest kind that comes, in order.
    :param metadata: the columns that the load itself writes.
    :param same: returns equal texts for names that the warehouse does not distinguish.
    :param fits_double: returns whether a double holds all integers of a column of the table.
    :raises LandingError: a name cannot be a column's.
    """
    existing = {name: _table_column(name, column) for name, column in present.items()}
    reserved = [column.name for column in metadata]
    names = column_names(schema, existing=existing, same=same, reserved=reserved)
    for key, name in names.items():
        if len(name.splitlines()) > 1:
            raise LandingError(
                f"{table}: the record key {key!r} has a line break, and the statements of this load cannot: leave it out with "
                "drop_columns=. Nothing was written"
            )

    def planned(at: int, key: str, incoming: Kind) -> ColumnPlan:
        column = existing.get(names[key])
        current = None if column is None else column.kind
        if current is Kind.BIGINT and incoming is Kind.DOUBLE and fits_double(names[key]):
            current = Kind.INTEGER
        kind = incoming if current is None else widen(current, incoming)
        return ColumnPlan(
            key=key, name=names[key], staged=f"c{at}", incoming=incoming, kind=kind, existing=column, current=current
        )

    brought = {same(name) for name in (*names.values(), *reserved)}
    known = {same(name) for name in existing}
    return LoadPlan(
        table=table,
        exists=bool(existing),
        columns=tuple(planned(at, key, kind) for at, (key, kind) in enumerate(schema.items())),
        missing_columns=tuple(column for name, column in existing.items() if same(name) not in brought),
        metadata=tuple(metadata),
        missing_metadata=tuple(column for column in metadata if same(column.name) not in known),
    )


def fit(plan: LoadPlan, *, contract: Contract, needed: Sequence[str], can_widen: Callable[[ColumnPlan], bool]) -> LoadPlan:
    """Apply the contract to a plan, and refuse what the warehouse's columns cannot hold.

    :param needed: record keys that the load itself needs.
    :param can_widen: returns whether the load can make a column of the table wider.
    :raises ContractError: the records break the contract.
    :raises LandingError: a column of the table is too narrow, or of a type that this package does not load.
    """
    plan = contract.fit(plan, needed=needed)
    types = {kind: DATA_TYPES[kind] for kind in DATA_TYPES}
    contract.check_types(plan, types=types)
    for column in plan.columns:
        if column.existing is None:
            continue
        if column.custom_type is not None:
            raise LandingError(
                f"{plan.table}: the column {column.name!r} is of dlt's type {column.custom_type}, which this load does not "
                f"write: leave it out with drop_columns=, or make it {types[column.incoming]}. Nothing was written"
            )
        if column.widens and not can_widen(column):
            raise LandingError(
                f"{plan.table}: the column {column.name!r} is {column.existing.type}, and values came that need "
                f"{types[column.kind]}. This load cannot change it so: change it in the warehouse (such as with ALTER TABLE), "
                "leave it out with drop_columns=, or load into another table. Nothing was written; a retry goes on from the "
                "finished parts"
            )
    return plan


def data_columns(plan: LoadPlan) -> dict[str, dict[str, Any]]:
    """Return the columns of a load as dlt describes them."""
    columns: dict[str, dict[str, Any]] = {}
    for column in plan.columns:
        columns[column.name] = {"name": column.name, "data_type": DATA_TYPES[column.kind], "nullable": True}
    for own in plan.metadata:
        columns[own.name] = {"name": own.name, "data_type": DATA_TYPES[own.kind], "nullable": True}
    return columns


def only(plan: LoadPlan, keys: Sequence[str]) -> LoadPlan:
    """Return the plan of some record keys alone."""
    columns = tuple(column for column in plan.columns if column.key in keys)
    rest = (column.key for column in plan.columns if column.key not in keys)
    return replace(plan, columns=columns, ignored=(*plan.ignored, *rest))


def _table_column(name: str, column: Mapping[str, Any]) -> TableColumn:
    type_ = str(column.get("data_type"))
    return TableColumn(name=name, type=type_, kind=_KINDS.get(type_), managed=True)
