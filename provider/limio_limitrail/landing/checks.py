# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Check: a condition that a table must meet after a load, or nothing of the load is committed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass


@dataclass(frozen=True)
class Check:
    """A condition that a table must meet after a load; if it does not, nothing is committed.

    ========================================== ==========================================================================
    check                                      passes if
    ========================================== ==========================================================================
    ``Check("rows_between", least=, most=)``   the table has at least, and at most, so many rows; one bound is enough
    ``Check("unique", columns=[...])``         no two rows have the same values in these columns; rows with a null in one
                                               of them do not count
    ``Check("not_null", columns=[...])``       each row has a value in each of these columns
    ``Check(sql="SELECT ...")``                the query returns one value, which is true or a number other than zero;
                                               null and NaN fail
    ========================================== ==========================================================================

    :param kind: ``rows_between``, ``unique`` or ``not_null``; omitted with `sql`.
    :param least: the fewest rows.
    :param most: the most rows.
    :param columns: names of columns: a list, or the name of one.
    :param sql: one ``SELECT`` in the database's SQL, without semicolons. ``{table}`` stands for the table's quoted name. It sees
        what the load has written, and cannot write or commit.
    :param name: what messages call it.
    """

    kind: str | None = None
    _: KW_ONLY
    least: int | None = None
    most: int | None = None
    columns: Sequence[str] = ()
    sql: str | None = None
    name: str | None = None

    @property
    def label(self) -> str:
        """What messages call the check."""
        columns = f"({', '.join(self.columns)})" if self.columns else ""
        return self.name or f"{self.kind or 'sql'}{columns}"
