# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Slices of the staged rows, and of their pairs with rows of the table, so that a statement is about some of them."""

from __future__ import annotations

from dataclasses import dataclass

from limio_limitrail.landing.sql.staged_rows import SEQUENCE


@dataclass(frozen=True, kw_only=True)
class PairSlice:
    """Some of the pairs of a staged row and a row of the table that share a key.

    :param pairs: a table of all pairs as SQL: `SEQUENCE` and `ROW`.
    :param start: the first number of a staged row.
    :param end: one more than the last number.
    """

    pairs: str
    start: int
    end: int

    def within(self, alias: str) -> str:
        """Return the condition that a row of the staging table or of the pairs belongs to the slice."""
        return f"{alias}.{SEQUENCE} >= {self.start} AND {alias}.{SEQUENCE} < {self.end}"

    @property
    def condition(self) -> str:
        """The condition for a staged row ``s`` and its pair ``p``. The bounds are said of both, so that both are pruned."""
        return f"p.{SEQUENCE} = s.{SEQUENCE} AND {self.within('s')} AND {self.within('p')}"


ROW = "row_of_table"
"""The column of a table of pairs with the identifier of the table's row, by which the database finds it."""


def in_order(numbers: range | None) -> str:
    """Return the end of a query of staged rows ``s`` in the order in which they came.

    :param numbers: the numbers of these rows; ``None`` for all.
    """
    some = "" if numbers is None else f"WHERE s.{SEQUENCE} >= {numbers.start} AND s.{SEQUENCE} < {numbers.stop} "
    return f"{some}ORDER BY s.{SEQUENCE}"
