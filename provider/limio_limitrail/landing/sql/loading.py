# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Load a pull into a table: the steps, which are the same for every database.

One transaction: inspect the table and plan (`plan`); copy rows straight into a new table (`direct_load`), or into a staging table
(`staged_rows`); check the staged rows; create, extend and widen the table; merge, append or replace (`statements`).
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql.dialect import Session
from limio_limitrail.landing.sql.direct_load import load_directly
from limio_limitrail.landing.sql.errors import DatabaseError, during
from limio_limitrail.landing.sql.model import LandingError, LoadResult, PartSource, Target, WriteMode
from limio_limitrail.landing.sql.names import TableName
from limio_limitrail.landing.sql.plan import ColumnPlan, LoadPlan, check_key_column, key_columns, make_plan
from limio_limitrail.landing.sql.sessions import find_table, open_session
from limio_limitrail.landing.sql.staged_rows import STORED_NUL, nul_forms, stage_columns
from limio_limitrail.landing.sql.stale_rows import drop_outdated
from limio_limitrail.landing.sql.statements import Statements

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

log = logging.getLogger("limio_limitrail.landing.sql")

_VERBS = {WriteMode.MERGE: "merging into", WriteMode.APPEND: "appending to", WriteMode.REPLACE: "replacing the rows of"}

_ROWS_SKIPPED = (
    "A trigger or a rule of the table may prevent rows from being written; change it, or load into another table; "
    "nothing was written"
)
_NOTHING_WRITTEN = "Nothing was written; a retry goes on from the finished parts"


def load(
    *,
    hook: DbApiHook,
    target: Target,
    schema: Mapping[str, Kind],
    parts: Sequence[PartSource],
    progress: Callable[[int], None] | None = None,
) -> LoadResult:
    """Write a pull into a table, in one transaction: all of it or nothing.

    The table is created if it does not exist, gains missing columns, and columns that are too narrow are widened. Loads own the
    columns: a row that is replaced has a null in every column that it no longer brings. Columns with a default, and those that
    the database fills, are never written.

    DuckDB, Postgres and SQLite also undo changes of columns when a load fails. Another database of standard SQL may commit those,
    and does not serialize two loads into one table.

    A NUL character is stored as the six characters ``\\u0000``. A column of a type that this package does not create, such as
    ``numeric``, ``varchar(20)`` or ``uuid``, is written if it returns every value unchanged; ``jsonb`` stores JSON as it does.

    :param hook: the connection, with the table's database and default schema.
    :param target: the table and how to write to it.
    :param schema: record key → the widest kind of all parts, in order.
    :param parts: the parts in order. Each is read once, one at a time; once more if it cannot go straight into a new table.
    :param progress: called after every part with the number of rows sent so far.
    :raises LandingError: the pull does not fit, or the database refused it. The table is as it was before.
    """
    # Only parts are counted, not rows: an empty pull may still come with parts.
    log.info("Loading %d parts into %s (%s)", len(parts), target.table, target.mode)
    import pyarrow as pa

    # Arrow keeps the memory that the pull has used, and the database is about to use as much again.
    pa.default_memory_pool().release_unused()
    step = f"while loading {target.table}"
    with during(step, outcome=_NOTHING_WRITTEN), open_session(hook, step=step) as session:
        table = find_table(target.table, dialect=session.dialect)
        with during(f"while locking {table}"):
            session.lock(table)
        result = _load(session=session, table=table, target=target, schema=schema, parts=parts, progress=progress)
    log.info(
        "Loaded into %s: %d rows came, %d inserted, %d updated, %d unchanged, %d outdated, %d deleted, %d duplicates dropped",
        target.table,
        result.rows,
        result.inserted,
        result.updated,
        result.unchanged,
        result.outdated,
        result.deleted,
        result.duplicates,
    )
    return result


def _load(
    *,
    session: Session,
    table: TableName,
    target: Target,
    schema: Mapping[str, Kind],
    parts: Sequence[PartSource],
    progress: Callable[[int], None] | None,
) -> LoadResult:
    with during(f"while inspecting {table}"):
        plan = make_plan(session=session, table=table, schema=schema)
    time = plan.column(target.time_column) if target.time_column is not None else None
    statements = Statements(
        dialect=session.dialect,
        plan=plan,
        stage=f"_limio_stage_{uuid.uuid4().hex}",
        time=time,
        missing_time=None
        if target.time_column is None or time is not None
        else plan.missing_column(target.time_column, same=session.dialect.same_name),
    )
    if schema:
        result = load_directly(session=session, statements=statements, target=target, parts=parts, progress=progress)
        if result is not None:
            return result
    with during(f"while creating the staging table of {table}"):
        session.create_stage(stage=statements.stage, columns=statements.stage_columns())
    with during(f"while copying rows into the staging table of {table}"):
        rows = _stage(session=session, statements=statements, keys=target.primary_key, parts=parts, progress=progress)
    if not plan.exists and not schema and not rows:
        # There is no column to create a table of.
        return LoadResult()
    with during(f"while checking the staged rows of {table}"):
        if target.mode is WriteMode.MERGE and rows:
            _check_keys(session=session, statements=statements, target=target)
        _check_custom_types(session=session, statements=statements)
        statements = replace(statements, plan=_with_valid_json(session=session, statements=statements))
        keys = key_columns(plan=statements.plan, keys=target.primary_key)
        duplicates = session.execute(statements.drop_duplicates(keys)) if keys and rows else 0
    added, widened = _evolve(session=session, statements=statements, target=target, keys=keys)
    with during(f"while {_VERBS[target.mode]} {table}"):
        applied = _apply(session=session, statements=statements, target=target, keys=keys, rows=rows, kept=rows - duplicates)
    return replace(
        applied,
        rows=rows,
        duplicates=duplicates,
        columns_added=added,
        columns_widened=widened,
    )


def _stage(
    *,
    session: Session,
    statements: Statements,
    keys: Sequence[str],
    parts: Sequence[PartSource],
    progress: Callable[[int], None] | None,
) -> int:
    rows = 0
    forms: set[tuple[str, str]] = set()
    for part in parts:
        for group in part.groups():
            forms |= nul_forms(group, keys=keys)
            table = stage_columns(rows=group, part=part.name, plan=statements.plan, time=statements.time, start=rows)
            if table.num_rows:
                session.fill(stage=statements.stage, rows=table)
            rows += table.num_rows
        if progress is not None:
            progress(rows)
    if twice := [key for key in keys if {(key, "\0"), (key, STORED_NUL)} <= forms]:
        raise LandingError(
            f"{statements.plan.table}: some values of {twice[0]!r}, which belongs to the primary key, have a NUL character, and "
            f"others the six characters {STORED_NUL} that replace it, so that two keys could become one; name other columns in "
            f"primary_key=; nothing was written"
        )
    session.analyze(stage=statements.stage)
    return rows


def _check_keys(*, session: Session, statements: Statements, target: Target) -> None:
    for key in target.primary_key:
        column = statements.plan.column(key)
        if column is None:
            raise LandingError(
                f"{statements.plan.table}: no row has the record key {key!r}, which the primary key names; nothing was written"
            )
        check_key_column(column, table=statements.plan.table)
        [(missing,)] = session.query(statements.keyless(column))
        if missing:
            raise LandingError(
                f"{statements.plan.table}: {missing} rows have no value in {column.name!r}, which belongs to the primary key; "
                f"nothing was written"
            )


def _check_custom_types(*, session: Session, statements: Statements) -> None:
    for column in statements.plan.columns:
        if column.custom_type is None:
            continue
        problem = ""
        try:
            [(values_lost,)] = session.query(statements.values_lost(column, custom_type=column.custom_type))
        except DatabaseError as refused:
            if not refused.cause.about_rows:
                raise
            problem = f"the database cannot convert one into the other ({refused.what})"
        else:
            if values_lost:
                problem = f"the type would change {values_lost} of the values"
        if problem:
            types = (session.dialect.types[column.incoming], session.dialect.text_type)
            raise LandingError(
                f"{statements.plan.table}: column {column.name!r} is {column.custom_type} and {column.incoming} comes: "
                f"{problem}. Change the column to {' or '.join(dict.fromkeys(types))}, "
                f"or rename it; nothing was written"
            )


def _with_valid_json(*, session: Session, statements: Statements) -> LoadPlan:
    """Turn JSON columns into text columns if the database's JSON type refuses some of their values."""
    columns = [column for column in statements.plan.columns if column.kind is Kind.JSON and column.custom_type is None]
    invalid = {column.key for column in columns if session.invalid_json(stage=statements.stage, column=column.staged)}
    return statements.plan.as_text(invalid)


def _evolve(
    *, session: Session, statements: Statements, target: Target, keys: Sequence[ColumnPlan] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Create the table, or add and widen its columns; return the columns added to and widened in an existing table."""
    plan = statements.plan
    if not plan.exists:
        unique = keys if target.mode is WriteMode.MERGE and keys is not None else ()
        with during(f"while creating {plan.table}"):
            session.create_table(table=plan.table, columns=statements.table_columns(), key=[column.name for column in unique])
        return (), ()
    added = [(column.name, session.dialect.types[column.kind]) for column in plan.columns if column.existing is None]
    added += [(name, statements.metadata_type(name)) for name in plan.missing_metadata]
    for name, type_ in added:
        with during(f"while adding {plan.table}.{name}"):
            session.execute(statements.add_column(name=name, type_=type_))
    widened = []
    for column in plan.columns:
        if column.widens and column.existing is not None and column.current is not None:
            with during(f"while widening {plan.table}.{column.name} to {session.dialect.types[column.kind]}"):
                session.widen(table=plan.table, column=column.existing, source=column.current, to=column.kind)
            widened.append(column.name)
    return tuple(name for name, _ in added), tuple(widened)


def _apply(
    *, session: Session, statements: Statements, target: Target, keys: Sequence[ColumnPlan] | None, rows: int, kept: int
) -> LoadResult:
    own = (target.extracted_at, target.run_id)
    match target.mode:
        case WriteMode.MERGE:
            return _merge(session=session, statements=statements, target=target, keys=keys or (), rows=rows, kept=kept)
        case WriteMode.APPEND:
            deleted = session.execute(statements.delete_run(), target.run_id)
            [(left,)] = session.query(statements.has_rows_of_run(), target.run_id)
        case WriteMode.REPLACE:
            deleted = session.execute(statements.delete_all())
            [(left,)] = session.query(statements.has_rows())
    if left:
        raise LandingError(f"{statements.plan.table}: deleted rows are still there, and would be duplicated. {_ROWS_SKIPPED}")
    inserted = session.execute(statements.insert_in_order(), *own)
    _expect(found=inserted, wanted=kept, statements=statements)
    return LoadResult(inserted=inserted, deleted=deleted)


def _merge(
    *, session: Session, statements: Statements, target: Target, keys: Sequence[ColumnPlan], rows: int, kept: int
) -> LoadResult:
    if not kept:
        return LoadResult()
    own = (target.extracted_at, target.run_id)
    pairs = drop_outdated(session=session, statements=statements, keys=keys, extracted_at=target.extracted_at, rows=rows)
    matches = pairs.matches
    update = statements.update(keys)
    updated = 0
    if update is not None and matches > pairs.outdated:
        differing = session.query(statements.differing(keys)) if session.may_skip_rows(statements.plan.table) else None
        updated = session.execute(update, *own)
        if differing is not None:
            _expect(found=updated, wanted=int(differing[0][0]), statements=statements)
    inserted = session.execute(statements.insert_missing(keys), *own)
    if matches > kept - inserted:
        raise LandingError(
            f"{statements.plan.table}: the table has {matches - kept + inserted} rows more than one for the keys that came, so "
            f"it cannot be merged into; remove the duplicates of the key, or append"
        )
    _expect(found=matches + inserted, wanted=kept, statements=statements)
    if pairs.timeless:
        log.warning(
            "%s: %d rows came without a readable time in %r, and the table's rows, which have one, were not changed. "
            "If the records no longer have this column, drop it from the table",
            statements.plan.table,
            pairs.timeless,
            target.time_column,
        )
    unchanged = kept - inserted - updated - pairs.outdated
    return LoadResult(inserted=inserted, updated=updated, unchanged=unchanged, outdated=pairs.outdated)


def _expect(*, found: int, wanted: int, statements: Statements) -> None:
    """Refuse to commit if the database's own count of rows differs."""
    if found != wanted:
        raise LandingError(
            f"{statements.plan.table}: {wanted} rows were to be written and the database counts {found}. {_ROWS_SKIPPED}"
        )
