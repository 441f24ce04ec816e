# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What differs between the SQL of databases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from limio_limitrail.landing.column_types import Kind

if TYPE_CHECKING:
    from limio_limitrail.landing.sql.names import TableName

VALUE = "\0"
"""Marks a bound value in SQL text. No quoted name can contain it."""


ISO_INSTANT = "%Y-%m-%dT%H:%M:%S.%fZ"
"""The text form of an instant in UTC, for ``strftime``."""


class Equality(Enum):
    """Which values a column compares as equal."""

    EXACT = "exact"
    """Only those with the same text."""
    NUMERIC = "numeric"
    """Numbers of one value, whose texts may differ: ``1.1`` and ``1.10``."""
    LOOSE = "loose"
    """Some with different texts, such as texts that differ in case only."""


@dataclass(frozen=True, kw_only=True)
class TableColumn:
    """A column of an existing table.

    :param name: its name, without quotes.
    :param type: its type as the database writes it.
    :param kind: the kind whose values the type stores unchanged; ``None`` for a type that this package does not create.
    :param managed: whether a load may write to it; not where it has a default, or the database fills it.
    :param equality: which values it compares as equal.
    :param nullable: whether it may hold nulls.
    """

    name: str
    type: str
    kind: Kind | None
    managed: bool
    equality: Equality = Equality.EXACT
    nullable: bool = True

    def confuses(self, kind: Kind) -> bool:
        """Return whether two different values of a kind can be equal in the column."""
        numbers = kind in (Kind.BOOLEAN, Kind.INTEGER, Kind.BIGINT, Kind.DOUBLE)
        return self.equality is Equality.LOOSE or (self.equality is Equality.NUMERIC and not numbers)


def quoted(name: str) -> str:
    """Put a name in double quotes, as standard SQL has it."""
    return '"' + name.replace('"', '""') + '"'


def unchanged(name: str) -> str:
    """Return an unquoted name as it is."""
    return name


def as_is(expression: str, kind: Kind) -> str:  # noqa: ARG001
    """Return an expression as it is."""
    return expression


@dataclass(frozen=True, kw_only=True)
class Update:
    """New values for some rows ``t`` of a table.

    :param table: the table.
    :param assignments: columns and their values as SQL.
    :param condition: which rows.
    :param source: a table ``s`` that values and condition may use, as SQL; it has one row for each row of the table.
    """

    table: TableName
    assignments: Sequence[tuple[str, str]]
    condition: str
    source: str | None = None


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """The SQL of one database.

    :param name: what the database is called in messages.
    :param types: the type of a column of each kind.
    :param text_type: the type of any text.
    :param integer_type: a 64-bit integer type.
    :param instant_type: the type of ``_extracted_at``.
    :param fold: what the database does to a table's name without quotes.
    :param same_name: returns equal texts for quoted names that the database does not distinguish.
    :param longest_name: the bytes of UTF-8 that it keeps of a name; ``None`` without a limit.
    :param most_columns: the columns that a table can have; ``None`` without a limit.
    :param stored: turns a staged expression of a kind into what a column of that kind stores.
    :param key: makes an expression of a kind comparable to find the row of a key, in a way that can use an index.
    :param exact: makes an expression of a kind comparable and sortable, texts and JSON character by character.
    :param to_custom_type: casts a staged expression of a kind to a type that this package does not create.
    :param custom_type_loses: a condition: such a type does not return the value of a staged expression of a kind.
    :param distinct: the operator that compares values, where two nulls are equal.
    :param strict_types: whether a column holds values of its type only; if not, times have to be fetched to be compared.
    :param serializes_loads: whether one load into a table waits for the other, and undoes changes of columns when it fails.
    :param utc_day: the day in UTC of an instant of the database's own type, as in ``2026-05-01``; ``None`` without such a type.
    :param insert_verb: the verb that adds rows to the table.
    :param update_verb: the verb that changes them.
    """

    name: str
    types: Mapping[Kind, str]
    text_type: str
    integer_type: str
    instant_type: str
    to_custom_type: Callable[[str, Kind, str], str]
    custom_type_loses: Callable[[str, Kind, str], str]
    fold: Callable[[str], str] = unchanged
    same_name: Callable[[str], str] = unchanged
    longest_name: int | None = None
    most_columns: int | None = None
    stored: Callable[[str, Kind], str] = as_is
    key: Callable[[str, Kind], str] = as_is
    exact: Callable[[str, Kind], str] = as_is
    distinct: str = "IS DISTINCT FROM"
    strict_types: bool = True
    serializes_loads: bool = True
    utc_day: Callable[[str], str] | None = None
    insert_verb: str = "INSERT"
    update_verb: str = "UPDATE"

    def quote(self, name: str) -> str:
        """Put a name in quotes."""
        return quoted(name)

    def qualified(self, table: TableName) -> str:
        """Return a table's name as SQL."""
        return ".".join(quoted(part) for part in (table.schema, table.table) if part is not None)

    def table_name(self, text: str) -> TableName:
        """Read a table's name as a user wrote it.

        :raises ValueError: it is none, or the database would change it.
        """
        from limio_limitrail.landing.sql.names import table_name

        return table_name(text, fold=self.fold, longest=self.longest_name)

    def stage_type(self, kind: Kind) -> str:
        """Return the type of a staged column; JSON is staged as text, since only text can be compared."""
        return self.text_type if kind is Kind.JSON else self.types[kind]

    def legible(self, expression: str) -> str:
        """Return an expression whose value can be fetched as a text."""
        return f"CAST({expression} AS {self.text_type})" if self.strict_types else expression

    def update(self, table: str, stage: str | None, assignments: Sequence[tuple[str, str]], condition: str) -> str:
        """Write an UPDATE … FROM, with the table's columns named by ``t`` and the staged ones by ``s``."""
        settings = ", ".join(f"{column} = {value}" for column, value in assignments)
        source = "" if stage is None else f" FROM {stage} AS s"
        return f"{self.update_verb} {table} AS t SET {settings}{source} WHERE {condition}"


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
