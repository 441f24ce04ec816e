# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Which column every record key goes to, and what has to happen to the table first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from limio_limitrail.landing.column_types import EXACT_IN_DOUBLE, Kind, widen
from limio_limitrail.landing.sql.dialect import Dialect, Session, TableColumn
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
    :param rival: for a new column, one of the table that the database would not tell from the key, and that another key has.
    """

    key: str
    name: str
    staged: str
    incoming: Kind
    kind: Kind
    existing: TableColumn | None
    held: Kind | None
    rival: str | None = None

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
    :param missing_columns: columns of the table that no row brings; a row replaced whole has nulls there.
    :param own_missing: those of the two own columns that an existing table lacks.
    :param extracted_at: the column ``_extracted_at`` as the table has it; ``None`` where it has none yet.
    """

    table: TableName
    exists: bool
    columns: tuple[Landed, ...]
    missing_columns: tuple[TableColumn, ...]
    own_missing: tuple[str, ...]
    extracted_at: TableColumn | None = None

    def column(self, key: str) -> Landed | None:
        """Find the column of a record key."""
        return next((column for column in self.columns if column.key == key), None)

    def vacated_by(self, key: str, *, same: Callable[[str], str]) -> TableColumn | None:
        """Find the table's column of a record key that no row brings.

        :param key: the record key.
        :param same: gives equal texts for names that the database takes for one.
        """
        [name] = column_names([key], existing=[column.name for column in self.missing_columns], same=same).values()
        return next((column for column in self.missing_columns if column.name == name), None)


def make_plan(*, session: Session, table: TableName, schema: Mapping[str, Kind]) -> Plan:
    """Look at the table and decide on every column.

    :param session: where to look.
    :param table: the table.
    :param schema: record key → the widest kind that comes, in order.
    :raises LandingError: a column is of a type that takes nothing of the kind that comes, or must not be written.
    """
    present = session.columns(table)
    by_name = {column.name: column for column in present or ()}
    same = session.dialect.same_name
    names = column_names(schema, existing=by_name, same=same)
    present_alike = {same(name): name for name in by_name}
    columns = tuple(
        _landed(
            session=session,
            table=table,
            key=key,
            name=names[key],
            staged=f"c{at}",
            incoming=kind,
            existing=by_name.get(names[key]),
            rival=present_alike.get(same(key)),
        )
        for at, (key, kind) in enumerate(schema.items())
    )
    brought = {same(name) for name in (*names.values(), EXTRACTED_AT, RUN_ID)}
    own_missing = tuple(name for name in (EXTRACTED_AT, RUN_ID) if present is not None and same(name) not in present_alike)
    own = {name: by_name[present_alike[same(name)]] for name in (EXTRACTED_AT, RUN_ID) if same(name) in present_alike}
    _check_own(own, dialect=session.dialect, table=table)
    _check_number(dialect=session.dialect, table=table, total=len({*by_name, *names.values(), EXTRACTED_AT, RUN_ID}))
    return Plan(
        table=table,
        exists=present is not None,
        columns=columns,
        missing_columns=tuple(column for column in present or () if column.managed and same(column.name) not in brought),
        own_missing=own_missing,
        extracted_at=own.get(EXTRACTED_AT),
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
    rival: str | None,
) -> Landed:
    if existing is None:
        return Landed(key=key, name=name, staged=staged, incoming=incoming, kind=incoming, existing=None, held=None, rival=rival)
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


def _check_own(own: Mapping[str, TableColumn], *, dialect: Dialect, table: TableName) -> None:
    """Refuse a column of one of the two own names in which its values cannot stand."""
    fitting = {
        EXTRACTED_AT: (dialect.instant_type, {Kind.TIMESTAMP, Kind.TEXT, None}),
        RUN_ID: (dialect.text_type, {Kind.TEXT, None}),
    }
    for name, column in own.items():
        type_, kinds = fitting[name]
        if dialect.keeps_types and column.kind not in kinds:
            raise LandingError(
                f"{table}: column {column.name!r} is {column.type}, and every load writes its own {name} there, which is "
                f"{type_}; change the column's type, or rename it; nothing was written"
            )


def _check_number(*, dialect: Dialect, table: TableName, total: int) -> None:
    if dialect.most_columns is not None and total > dialect.most_columns:
        raise LandingError(
            f"{table}: the table would have {total} columns, and {dialect.name} takes {dialect.most_columns}: leave some out "
            f"with drop_columns=, or lift what you need with columns= and drop the rest; nothing was written"
        )


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


def check_key_column(column: Landed, *, table: TableName) -> None:
    """Refuse a column of the primary key in which rows would get lost.

    :raises LandingError: it takes different values for equal, or it is not clear which column of the table it is.
    """
    if column.existing is not None and column.existing.takes_for_equal(column.incoming):
        raise loose_key(column.existing, table=table)
    if column.rival is not None:
        raise LandingError(
            f"{table}: the records have {column.key!r}, which belongs to the primary key, and another key that differs from it "
            f"in case only and has the column {column.rival!r}; leave one of them out with drop_columns=, or rename the column; "
            f"nothing was written"
        )


def loose_key(column: TableColumn, *, table: TableName) -> LandingError:
    """Make the error for a column of the primary key that takes different values for equal."""
    return LandingError(
        f"{table}: column {column.name!r} takes different texts for equal (its type is {column.type}), and it belongs to the "
        f"primary key, so rows would be lost; change its type to text with a deterministic collation, or name other columns in "
        f"primary_key=; nothing was written"
    )
