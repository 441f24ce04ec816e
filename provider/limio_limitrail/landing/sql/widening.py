# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The text forms of values that a table held before their column became text."""

from __future__ import annotations

import uuid

from limio_limitrail.landing.kinds import Kind, cast
from limio_limitrail.landing.sql.dialect import Session
from limio_limitrail.landing.sql.names import TableName

ISO_INSTANT = "%Y-%m-%dT%H:%M:%S.%fZ"
"""The text form of an instant in UTC, as a pattern for ``strftime``."""

_PLAIN_DOUBLE = 1e10
"""Below this magnitude, and above a thousandth, every database writes a double's digits as they are."""


def double_texts(numbers: list[float]) -> list[str]:
    """Write doubles the way `kinds.cast` writes them."""
    import pyarrow as pa

    column = pa.chunked_array([pa.array(numbers, pa.float64())])
    texts: list[str] = cast(column, source=Kind.DOUBLE, target=Kind.TEXT).to_pylist()
    return texts


def respell_doubles(*, session: Session, table: TableName, column: str) -> None:
    """Bring the very large and very small numbers of a column that has just become text into the form of `kinds.cast`.

    Databases differ in when they write an exponent and how; in the range that is left alone they all agree.

    :param session: the load's session.
    :param table: the table.
    :param column: the column, whose texts are shortest forms of doubles.
    """
    dialect = session.dialect
    name, place = dialect.quote(column), dialect.qualified(table)
    number = f"abs(CAST({name} AS {dialect.types[Kind.DOUBLE]}))"
    unusual = f"{number} >= {_PLAIN_DOUBLE:.0f} OR ({number} < 0.001 AND {number} > 0)"
    spelled = [text for (text,) in session.query(f"SELECT DISTINCT {name} FROM {place} WHERE {unusual}")]
    wanted = double_texts([float(text) for text in spelled])
    changes = [(old, new) for old, new in zip(spelled, wanted, strict=True) if old != new]
    if not changes:
        return
    import pyarrow as pa

    respelling = f"_limio_spelling_{uuid.uuid4().hex}"
    session.create_stage(stage=respelling, columns=[("old", dialect.text_type), ("new", dialect.text_type)])
    session.fill(stage=respelling, rows=pa.table({"old": [old for old, _ in changes], "new": [new for _, new in changes]}))
    session.ready(stage=respelling)
    session.execute(dialect.update(place, dialect.quote(respelling), [(name, "s.new")], f"t.{name} = s.old"))
