# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The plan of a load: which column each record key goes to, and which columns `schema_evolution` adds or widens first.

New keys add columns; a column becomes wider where its kind does not hold what comes (`column_types.widen`); nothing is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from limio_limitrail.landing.column_types import EXACT_IN_DOUBLE, Kind, widen
from limio_limitrail.landing.sql.dialect import Dialect, TableColumn
from limio_limitrail.landing.sql.metadata import EXTRACTED_AT, MetadataColumn
from limio_limitrail.landing.sql.model import LandingError
from limio_limitrail.landing.sql.names import TableName, column_names
from limio_limitrail.landing.sql.session import Session


@dataclass(frozen=True, kw_only=True)
class ColumnPlan:
    """The way of a record key into a column.

    :param key: the record key.
    :param name: its column in the table.
    :param staged: its column in the staging table.
    :param incoming: the kind of the values that come.
    :param kind: the kind in which they are staged: the column's own, unless `existing` is of a custom type.
    :param existing: the table's column; ``None`` if it is new.
    :param current: the narrowest kind that holds what the table has in the column.
    :param case_variant: for a new column, one of the table that the database does not distinguish from the key, and that another
        key has.
    """

    key: str
    name: str
    staged: str
    incoming: Kind
    kind: Kind
    existing: TableColumn | None
    current: Kind | None = None
    case_variant: str | None = None

    @property
    def custom_type(self) -> str | None:
        """The existing column's type, if this package does not create it."""
        return self.existing.type if self.existing is not None and self.existing.kind is None else None

    @property
    def widens(self) -> bool:
        """Whether the table's column has to become wider first."""
        if self.existing is None or self.existing.kind is None:
            return False
        return _column_kind(self.existing.kind) is not _column_kind(self.kind)


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """What a load does to the columns of its table.

    :param table: the table.
    :param exists: whether it exists.
    :param columns: the columns that rows bring, in order.
    :param missing_columns: columns of the table that no row brings; a replaced row has nulls there.
    :param metadata: the columns that the load itself writes.
    :param missing_metadata: those of them that an existing table lacks.
    :param extracted_at: the table's column ``_extracted_at``, if it has one.
    :param ignored: record keys that are left out, because the table has no column for them; see `contract`.
    """

    table: TableName
    exists: bool
    columns: tuple[ColumnPlan, ...]
    missing_columns: tuple[TableColumn, ...]
    metadata: tuple[MetadataColumn, ...]
    missing_metadata: tuple[MetadataColumn, ...]
    extracted_at: TableColumn | None = None
    ignored: tuple[str, ...] = ()

    @property
    def written_names(self) -> tuple[str, ...]:
        """The columns of an inserted row: those of the record, then the metadata columns."""
        return (*(column.name for column in self.columns), *(column.name for column in self.metadata))

    @property
    def updated_metadata(self) -> tuple[MetadataColumn, ...]:
        """The metadata columns that are written in rows that are updated."""
        return tuple(column for column in self.metadata if column.updates)

    def column(self, key: str) -> ColumnPlan | None:
        """Find the column of a record key."""
        return next((column for column in self.columns if column.key == key), None)

    def missing_column(self, key: str, *, same: Callable[[str], str]) -> TableColumn | None:
        """Find the table's column of a record key that no row brings.

        :param key: the record key.
        :param same: returns equal texts for names that the database does not distinguish.
        """
        existing = [column.name for column in self.missing_columns]
        reserved = [column.name for column in self.metadata]
        [name] = column_names([key], existing=existing, same=same, reserved=reserved).values()
        return next((column for column in self.missing_columns if column.name == name), None)

    def as_text(self, keys: set[str]) -> LoadPlan:
        """Return the plan with text columns for some keys."""
        columns = (replace(column, kind=Kind.TEXT) if column.key in keys else column for column in self.columns)
        return replace(self, columns=tuple(columns))


def make_plan(*, session: Session, table: TableName, schema: Mapping[str, Kind], metadata: Sequence[MetadataColumn]) -> LoadPlan:
    """Inspect the table and decide on every column.

    :param session: where the table is.
    :param table: the table.
    :param schema: record key → the widest kind that comes, in order.
    :param metadata: the columns that the load itself writes.
    :raises LandingError: a column must not be written, or is of a type that does not take the kind that comes.
    """
    present = session.columns(table)
    by_name = {column.name: column for column in present or ()}
    same = session.dialect.same_name
    reserved = [column.name for column in metadata]
    names = column_names(schema, existing=by_name, same=same, reserved=reserved)
    variants = {same(name): name for name in by_name}

    def planned(at: int, key: str, incoming: Kind) -> ColumnPlan:
        existing = by_name.get(names[key])
        plan = ColumnPlan(key=key, name=names[key], staged=f"c{at}", incoming=incoming, kind=incoming, existing=existing)
        if existing is None:
            return replace(plan, case_variant=variants.get(same(key)))
        if not existing.managed:
            raise LandingError(
                f"{table}: column {plan.name!r} has a default or is filled by the database, so records must not write to it; "
                f"rename the column, or drop its default"
            )
        current = existing.kind
        if current is None:
            return plan
        if current is Kind.BIGINT and incoming is Kind.DOUBLE and _fits_double(session=session, table=table, name=plan.name):
            current = Kind.INTEGER
        return replace(plan, kind=widen(current, incoming), current=current)

    brought = {same(name) for name in (*names.values(), *reserved)}
    written = {name: by_name[variants[same(name)]] for name in reserved if same(name) in variants}
    columns = tuple(planned(at, key, kind) for at, (key, kind) in enumerate(schema.items()))
    _check_metadata_columns(metadata, existing=written, dialect=session.dialect, table=table)
    _check_number(dialect=session.dialect, table=table, total=len({*by_name, *names.values(), *reserved}))
    return LoadPlan(
        table=table,
        exists=present is not None,
        columns=columns,
        missing_columns=tuple(column for column in present or () if column.managed and same(column.name) not in brought),
        metadata=tuple(metadata),
        missing_metadata=tuple(column for column in metadata if present is not None and column.name not in written),
        extracted_at=written.get(EXTRACTED_AT),
    )


def _check_metadata_columns(
    metadata: Sequence[MetadataColumn], *, existing: Mapping[str, TableColumn], dialect: Dialect, table: TableName
) -> None:
    """Refuse a table's column of a metadata column's name that cannot hold its values."""
    for written in metadata:
        column = existing.get(written.name)
        if column is not None and dialect.strict_types and column.kind not in written.fitting:
            raise LandingError(
                f"{table}: column {column.name!r} is {column.type}, and every load writes its own {written.name} there, which is "
                f"{dialect.types[written.kind]}; change the column's type, or rename it; nothing was written"
            )


def _check_number(*, dialect: Dialect, table: TableName, total: int) -> None:
    if dialect.most_columns is not None and total > dialect.most_columns:
        raise LandingError(
            f"{table}: the table would have {total} columns, and {dialect.name} takes {dialect.most_columns}: leave some out "
            f"with drop_columns=, or keep what you need with nested_columns= and drop the rest; nothing was written"
        )


def _fits_double(*, session: Session, table: TableName, name: str) -> bool:
    column = session.dialect.quote(name)
    beyond = f"{column} > {EXACT_IN_DOUBLE} OR {column} < -{EXACT_IN_DOUBLE}"
    [(rows,)] = session.query(f"SELECT count(*) FROM {session.dialect.qualified(table)} WHERE {beyond}")
    return bool(rows == 0)


def _column_kind(kind: Kind) -> Kind:
    """Return the kind that represents all kinds of one column type."""
    return {Kind.BIGINT: Kind.INTEGER, Kind.NULL: Kind.TEXT}.get(kind, kind)


def key_columns(*, plan: LoadPlan, keys: Sequence[str]) -> tuple[ColumnPlan, ...] | None:
    """Find the columns of a primary key; ``None`` if one of them came in no row."""
    columns = tuple(column for key in keys if (column := plan.column(key)) is not None)
    return columns if columns and len(columns) == len(keys) else None


def key_columns_of_table(*, plan: LoadPlan, keys: Sequence[str], dialect: Dialect) -> tuple[ColumnPlan, ...]:
    """Find the columns of a primary key in a table into which an empty pull goes; empty if it lacks one."""
    found = [plan.missing_column(key, same=dialect.same_name) for key in keys]
    return tuple(
        ColumnPlan(
            key=key,
            name=column.name,
            staged="",
            incoming=column.kind or Kind.TEXT,
            kind=column.kind or Kind.TEXT,
            existing=column,
            current=column.kind,
        )
        for key, column in zip(keys, found, strict=True)
        if column is not None and None not in found
    )


def check_key_column(column: ColumnPlan, *, table: TableName) -> None:
    """Refuse a column of the primary key in which rows would get lost.

    :raises LandingError: it compares different values as equal, or which column of the table it is is ambiguous.
    """
    if column.existing is not None and column.existing.confuses(column.incoming):
        raise loose_key(column.existing, table=table)
    if column.case_variant is not None:
        raise LandingError(
            f"{table}: the records have {column.key!r}, which belongs to the primary key, and another key that differs from it "
            f"in case only and has the column {column.case_variant!r}; leave one of them out with drop_columns=, or rename the "
            f"column; nothing was written"
        )


def loose_key(column: TableColumn, *, table: TableName) -> LandingError:
    """Return the error for a column of the primary key that compares different values as equal."""
    return LandingError(
        f"{table}: column {column.name!r} compares different texts as equal (its type is {column.type}), and it belongs to the "
        f"primary key, so rows would be lost; change its type to text with a deterministic collation, or name other columns in "
        f"primary_key=; nothing was written"
    )
