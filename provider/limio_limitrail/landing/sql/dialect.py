# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What differs from one database to the next, and the session through which a load talks to one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

from limio_limitrail.landing.column_types import Kind

if TYPE_CHECKING:
    import pyarrow as pa

    from limio_limitrail.landing.sql.names import TableName

VALUE = "\0"
"""Stands for a bound value in SQL text. No quoted name can hold it, so a name never passes for one."""


class Equality(Enum):
    """Which values a column takes for equal."""

    EXACT = "exact"
    """Only those with the same text."""
    NUMERIC = "numeric"
    """Numbers of one value, whose texts may differ: ``1.1`` and ``1.10``."""
    LOOSE = "loose"
    """Some with different texts, such as texts that differ in case only."""


@dataclass(frozen=True, kw_only=True)
class TableColumn:
    """A column that a table has.

    :param name: its name, without quotes.
    :param type: its type as the database writes it.
    :param kind: the kind whose values the type keeps as they are, or ``None`` for a type this package does not make.
    :param managed: whether a load may write to it; a column with a default, or one that the database fills, is its owner's.
    :param equality: which values it takes for equal.
    """

    name: str
    type: str
    kind: Kind | None
    managed: bool
    equality: Equality = Equality.EXACT

    def takes_for_equal(self, kind: Kind) -> bool:
        """Tell whether two different values of a kind can be equal in the column."""
        numbers = kind in (Kind.BOOLEAN, Kind.INTEGER, Kind.BIGINT, Kind.DOUBLE)
        return self.equality is Equality.LOOSE or (self.equality is Equality.NUMERIC and not numbers)


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a database writes things.

    :param name: what the database is called in messages.
    :param quote: puts a name in quotes.
    :param fold: what the database does to a table's name that stands without quotes.
    :param same_name: gives equal texts for quoted names that the database takes for one.
    :param longest_name: the bytes of UTF-8 that it keeps of a name; ``None`` where it keeps all of them.
    :param most_columns: the columns that a table can have; ``None`` where the database sets no limit.
    :param types: the type of a column of each kind.
    :param text_type: the type of any text.
    :param integer_type: a type for numbers of rows, 64 bits wide.
    :param instant_type: the type of ``_extracted_at``.
    :param stored: turns a staged expression of a kind into what a column of that kind stores.
    :param distinct: tells whether two expressions differ, where two nulls do not.
    :param key: makes an expression of a kind comparable to find the row of a key, in a way that can use the table's index.
    :param exact: makes an expression of a kind comparable and sortable, texts and JSON character by character.
    :param foreign_value: turns a staged expression of a kind into a foreign type.
    :param foreign_loss: tells whether a foreign type fails to give back the value of a staged expression of a kind.
    :param keeps_types: whether a column holds values of its type only; else its times have to be read to be compared.
    :param insert: the verb that adds rows to the table.
    :param update: writes the statement that overwrites rows of a table from the staged ones: table, stage, assignments and
        condition, with the table's columns named by ``t`` and the staged ones by ``s``.
    """

    name: str
    quote: Callable[[str], str]
    fold: Callable[[str], str]
    same_name: Callable[[str], str]
    longest_name: int | None
    most_columns: int | None
    types: Mapping[Kind, str]
    text_type: str
    integer_type: str
    instant_type: str
    stored: Callable[[str, Kind], str]
    distinct: Callable[[str, str], str]
    key: Callable[[str, Kind], str]
    exact: Callable[[str, Kind], str]
    foreign_value: Callable[[str, Kind, str], str]
    foreign_loss: Callable[[str, Kind, str], str]
    update: Callable[[str, str, Sequence[tuple[str, str]], str], str]
    keeps_types: bool = True
    insert: str = "INSERT"

    def stage_type(self, kind: Kind) -> str:
        """Give the type that holds a kind on its way; JSON travels as text, since only text can be compared."""
        return self.text_type if kind is Kind.JSON else self.types[kind]

    def table_name(self, text: str) -> TableName:
        """Read a table's name as a user wrote it.

        :raises ValueError: it is none, or the database would make another name of it.
        """
        from limio_limitrail.landing.sql.names import table_name

        return table_name(text, fold=self.fold, longest=self.longest_name)

    def legible(self, expression: str) -> str:
        """Give an expression in a form in which its value can be fetched and read as a text."""
        return f"CAST({expression} AS {self.text_type})" if self.keeps_types else expression

    def qualified(self, table: TableName) -> str:
        """Write a table's name into SQL."""
        return ".".join(self.quote(part) for part in (table.schema, table.table) if part is not None)


class Session(Protocol):
    """An open transaction of one load. Nothing it does can be seen by others before the load's end."""

    dialect: Dialect

    def execute(self, sql: str, *values: object) -> int:
        """Run a statement, with a bound value for every `VALUE` in it; answer the number of rows it touched."""
        ...

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a query and fetch all its rows."""
        ...

    def lock(self, table: TableName) -> None:
        """Make other loads into the same table wait until this one ends."""
        ...

    def columns(self, table: TableName) -> tuple[TableColumn, ...] | None:
        """Read what columns a table has; ``None`` when there is no such table.

        :raises LandingError: the name belongs to something that is no table.
        """
        ...

    def may_skip_rows(self, table: TableName) -> bool:
        """Tell whether the table has something, such as a trigger, that may leave a row as it is without a word."""
        ...

    def create_stage(self, *, stage: str, columns: Sequence[tuple[str, str]]) -> None:
        """Make a temporary table of columns given by name and type."""
        ...

    def fill(self, *, stage: str, rows: pa.Table) -> None:
        """Add rows to a temporary table, whose columns come in the same order."""
        ...

    def ready(self, *, stage: str) -> None:
        """Do what the database needs before it can use a filled temporary table well."""
        ...

    def unfit_json(self, *, stage: str, column: str) -> int:
        """Count the staged values of a JSON column that the database's own JSON type would not take."""
        ...

    def create_table(self, *, table: TableName, columns: Sequence[tuple[str, str]], key: Sequence[str]) -> bool:
        """Make the table, with a primary key on the columns of `key` where that helps the database.

        True where the table now refuses rows that share a key or lack it.
        """
        ...

    def widen(self, *, table: TableName, column: TableColumn, source: Kind, to: Kind) -> None:
        """Turn a column into a wider kind; numbers, instants and truth values take the text forms of `kinds.cast`."""
        ...


def quoted(name: str) -> str:
    """Put a name in double quotes, as standard SQL has it."""
    return '"' + name.replace('"', '""') + '"'


def unchanged(name: str) -> str:
    """Leave a name without quotes as it is."""
    return name


def any_of(conditions: Iterable[str]) -> str:
    """Join conditions by OR, in groups, so that hundreds of them do not nest too deeply for the database's parser."""
    return _joined(conditions, word="OR", empty="1 = 0")


def all_of(conditions: Iterable[str]) -> str:
    """Join conditions by AND, in groups."""
    return _joined(conditions, word="AND", empty="1 = 1")


def _joined(conditions: Iterable[str], *, word: str, empty: str) -> str:
    group = 50
    parts = [f"({condition})" for condition in conditions]
    while len(parts) > 1:
        parts = [f"({f' {word} '.join(parts[at : at + group])})" for at in range(0, len(parts), group)]
    return parts[0] if parts else empty


def update_from(table: str, stage: str, assignments: Sequence[tuple[str, str]], condition: str) -> str:
    """Write an UPDATE … FROM, as Postgres, DuckDB and SQLite have it."""
    settings = ", ".join(f"{column} = {value}" for column, value in assignments)
    return f"UPDATE {table} AS t SET {settings} FROM {stage} AS s WHERE {condition}"
