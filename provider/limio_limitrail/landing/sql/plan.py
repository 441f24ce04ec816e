# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Which column every record key goes to, and what has to happen to the table first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from limio_limitrail.landing.kinds import EXACT_IN_DOUBLE, Kind, widen
from limio_limitrail.landing.sql.dialect import Session, TableColumn
from limio_limitrail.landing.sql.model import EXTRACTED_AT, RUN_ID, LandingError
from limio_limitrail.landing.sql.names import TableName, column_names


@dataclass(frozen=True, kw_only=True)
class Landed:
    """A record key on its way into a column.

    :param key: the record key.
    :param name: its column in the table.
    :param staged: its column in the temporary table.
    :param incoming: the kind of what comes.
    :param kind: the kind in which it travels, which is the column's own unless `existing` is of a foreign type.
    :param existing: the column as the table has it; ``None`` when the column is new.
    :param held: the narrowest kind that holds what the table has in the column.
    """

    key: str
    name: str
    staged: str
    incoming: Kind
    kind: Kind
    existing: TableColumn | None
    held: Kind | None

    @property
    def foreign(self) -> bool:
        """Whether the column is of a type that this package does not make."""
        return self.existing is not None and self.existing.kind is None

    @property
    def widens(self) -> bool:
        """Whether the table's column has to become wider first."""
        if self.existing is None or self.existing.kind is None:
            return False
        return _stored(self.existing.kind) is not _stored(self.kind)

    def demoted(self) -> Landed:
        """Give the same column as text instead of JSON."""
        return replace(self, kind=Kind.TEXT)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a load does to the columns of its table.

    :param table: the table.
    :param exists: whether the table is there.
    :param columns: the columns that rows bring, in order.
    :param vacated: columns of the table that no row brings; a row replaced whole has nulls there.
    :param own_missing: those of the two own columns that an existing table lacks.
    :param extracted_at: the column ``_extracted_at`` as the table has it; ``None`` where it has none yet.
    """

    table: TableName
    exists: bool
    columns: tuple[Landed, ...]
    vacated: tuple[TableColumn, ...]
    own_missing: tuple[str, ...]
    extracted_at: TableColumn | None = None

    def column(self, key: str) -> Landed | None:
        """Find the column of a record key."""
        return next((column for column in self.columns if column.key == key), None)

    def vacated_by(self, key: str) -> TableColumn | None:
        """Find the table's column of a record key that no row brings."""
        [name] = column_names([key], existing=[column.name for column in self.vacated]).values()
        return next((column for column in self.vacated if column.name == name), None)


def make_plan(*, session: Session, table: TableName, schema: Mapping[str, Kind]) -> Plan:
    """Look at the table and decide on every column.

    :param session: where to look.
    :param table: the table.
    :param schema: record key → the widest kind that comes, in order.
    :raises LandingError: a column is of a type that takes nothing of the kind that comes, or must not be written.
    """
    present = session.columns(table)
    by_name = {column.name: column for column in present or ()}
    names = column_names(schema, existing=by_name)
    columns = tuple(
        _landed(
            session=session,
            table=table,
            key=key,
            name=names[key],
            staged=f"c{at}",
            incoming=kind,
            existing=by_name.get(names[key]),
        )
        for at, (key, kind) in enumerate(schema.items())
    )
    brought = {*names.values(), EXTRACTED_AT, RUN_ID}
    return Plan(
        table=table,
        exists=present is not None,
        columns=columns,
        vacated=tuple(column for column in present or () if column.managed and column.name not in brought),
        own_missing=tuple(name for name in (EXTRACTED_AT, RUN_ID) if present is not None and name not in by_name),
        extracted_at=by_name.get(EXTRACTED_AT),
    )


def _landed(
    *,
    session: Session,
    table: TableName,
    key: str,
    name: str,
    staged: str,
    incoming: Kind,
    existing: TableColumn | None,
) -> Landed:
    if existing is None:
        return Landed(key=key, name=name, staged=staged, incoming=incoming, kind=incoming, existing=None, held=None)
    if not existing.managed:
        raise LandingError(
            f"{table}: column {name!r} has a default or is filled by the database, so records must not write to it; "
            f"rename the column, or drop its default"
        )
    if existing.kind is None:
        return Landed(key=key, name=name, staged=staged, incoming=incoming, kind=incoming, existing=existing, held=None)
    held = existing.kind
    if held is Kind.BIGINT and incoming is Kind.DOUBLE and _fits_double(session=session, table=table, name=name):
        held = Kind.INTEGER
    return Landed(key=key, name=name, staged=staged, incoming=incoming, kind=widen(held, incoming), existing=existing, held=held)


def _fits_double(*, session: Session, table: TableName, name: str) -> bool:
    column = session.dialect.quote(name)
    beyond = f"{column} > {EXACT_IN_DOUBLE} OR {column} < -{EXACT_IN_DOUBLE}"
    [(rows,)] = session.query(f"SELECT count(*) FROM {session.dialect.qualified(table)} WHERE {beyond}")
    return bool(rows == 0)


def _stored(kind: Kind) -> Kind:
    """Give the kind that stands for all kinds of one column type."""
    match kind:
        case Kind.BIGINT:
            return Kind.INTEGER
        case Kind.NULL:
            return Kind.TEXT
        case _:
            return kind


def key_columns(*, plan: Plan, keys: Sequence[str]) -> tuple[Landed, ...] | None:
    """Find the columns of a primary key; ``None`` when one of them came in no row."""
    found = tuple(plan.column(key) for key in keys)
    columns = tuple(column for column in found if column is not None)
    return columns if columns and len(columns) == len(keys) else None
