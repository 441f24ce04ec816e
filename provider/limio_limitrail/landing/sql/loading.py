# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The load itself: the same steps for every database."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql.dialect import Session
from limio_limitrail.landing.sql.direct_load import load_fresh
from limio_limitrail.landing.sql.errors import DatabaseError, during
from limio_limitrail.landing.sql.model import LandingError, LoadResult, PartSource, Target, WriteMode
from limio_limitrail.landing.sql.names import TableName
from limio_limitrail.landing.sql.plan import Landed, Plan, check_key_column, key_columns, make_plan
from limio_limitrail.landing.sql.sessions import open_session
from limio_limitrail.landing.sql.staged_rows import STORED_NUL, forms_of_nul, prepared
from limio_limitrail.landing.sql.stale_rows import drop_outdated
from limio_limitrail.landing.sql.statements import Statements

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

log = logging.getLogger("limio_limitrail.landing.sql")

KEPT_AWAY = (
    "A trigger or a rule of the table may keep rows from being written; change it, or load into another table; nothing was kept"
)

UNDONE = "Nothing was written; a retry goes on from the finished parts"


def load(
    *,
    hook: DbApiHook,
    target: Target,
    schema: Mapping[str, Kind],
    parts: Sequence[PartSource],
    progress: Callable[[int], None] | None = None,
) -> LoadResult:
    """Write a pull into a table, in one transaction: all of it or nothing.

    The table is made if it is not there, gains the columns it lacks, and columns too narrow for what comes are widened. All
    columns are the records': a row that is replaced has a null in every column that it no longer brings. Only columns with a
    default, and those that the database fills by itself, are somebody else's and never written.

    DuckDB, Postgres and SQLite undo changes of a table's columns too when a load fails. Another database of standard SQL may
    commit those by itself, and nothing there keeps two loads into one table apart.

    A NUL character is stored as the six characters ``\\u0000``. A column of a type this package does not make (``numeric``,
    ``varchar(20)``, ``uuid``, …) is written if it gives every value back as it came; a ``jsonb`` column keeps of JSON what
    ``jsonb`` keeps.

    :param hook: the connection; its database and schema are where the table lives.
    :param target: the table and how to write to it.
    :param schema: record key → the widest kind over all parts, in order.
    :param parts: the parts, in the order in which they came; each is read once, one at a time, or once more where the rows cannot
        go straight into a new table.
    :param progress: called with the number of rows sent so far, after every part.
    :raises LandingError: the pull does not fit, or the database refused it. The table is as it was before.
    """
    # Only parts are counted, not rows: an empty pull may still come with parts.
    log.info("Landing %d parts in %s by %s", len(parts), target.table, target.mode)
    import pyarrow as pa

    # What the pull has used Arrow keeps, and the database is about to use as much again.
    pa.default_memory_pool().release_unused()
    with during(f"while loading {target.table}", undone=UNDONE), open_session(hook) as session:
        try:
            table = session.dialect.table_name(target.table)
        except ValueError as wrong:
            raise LandingError(str(wrong)) from None
        with during(f"while waiting for {table}"):
            session.lock(table)
        result = _load(session=session, table=table, target=target, schema=schema, parts=parts, progress=progress)
    log.info(
        "Landed in %s: %d rows came, %d inserted, %d updated, %d unchanged, %d outdated, %d deleted, %d duplicates dropped",
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
    with during(f"while looking at {table}"):
        plan = make_plan(session=session, table=table, schema=schema)
    time = plan.column(target.time_column) if target.time_column is not None else None
    write = Statements(
        dialect=session.dialect,
        plan=plan,
        stage=f"_limio_stage_{uuid.uuid4().hex}",
        time=time,
        lost_time=None
        if target.time_column is None or time is not None
        else plan.vacated_by(target.time_column, same=session.dialect.same_name),
    )
    fresh = load_fresh(session=session, write=write, target=target, parts=parts, progress=progress) if schema else None
    if fresh is not None:
        return fresh
    with during(f"while creating the staging table of {table}"):
        session.create_stage(stage=write.stage, columns=write.stage_columns())
    with during(f"while copying rows into the staging table of {table}"):
        rows = _stage(session=session, write=write, keys=target.primary_key, parts=parts, progress=progress)
    if not plan.exists and not schema and not rows:
        # Nothing is known of a table yet, so none is made.
        return LoadResult()
    with during(f"while checking the staged rows of {table}"):
        if target.mode is WriteMode.MERGE and rows:
            _check_keys(session=session, write=write, target=target)
        _check_foreign(session=session, write=write)
        write = replace(write, plan=_with_fitting_json(session=session, write=write))
        keys = key_columns(plan=write.plan, keys=target.primary_key)
        duplicates = session.execute(write.drop_duplicates(keys)) if keys and rows else 0
    added, widened = _shape(session=session, write=write, target=target, keys=keys)
    with during(f"while writing the staged rows into {table} ({target.mode})"):
        applied = _apply(session=session, write=write, target=target, keys=keys, rows=rows, kept=rows - duplicates)
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
    write: Statements,
    keys: Sequence[str],
    parts: Sequence[PartSource],
    progress: Callable[[int], None] | None,
) -> int:
    rows = 0
    forms: set[tuple[str, str]] = set()
    for part in parts:
        for group in part.groups():
            forms |= forms_of_nul(group, keys=keys)
            table = prepared(rows=group, part=part.name, plan=write.plan, time=write.time, start=rows)
            if table.num_rows:
                session.fill(stage=write.stage, rows=table)
            rows += table.num_rows
        if progress is not None:
            progress(rows)
    if twice := [key for key in keys if {(key, "\0"), (key, STORED_NUL)} <= forms]:
        raise LandingError(
            f"{write.plan.table}: some values of {twice[0]!r}, which belongs to the primary key, have a NUL character, and "
            f"others the six characters {STORED_NUL} that stand for it, so that two keys could become one; name other columns in "
            f"primary_key=; nothing was written"
        )
    session.ready(stage=write.stage)
    return rows


def _check_keys(*, session: Session, write: Statements, target: Target) -> None:
    for key in target.primary_key:
        column = write.plan.column(key)
        if column is None:
            raise LandingError(
                f"{write.plan.table}: no row has the record key {key!r}, which the primary key names; nothing was written"
            )
        check_key_column(column, table=write.plan.table)
        [(missing,)] = session.query(write.keyless(column))
        if missing:
            raise LandingError(
                f"{write.plan.table}: {missing} rows have no value in {column.name!r}, which belongs to the primary key; "
                f"nothing was written"
            )


def _check_foreign(*, session: Session, write: Statements) -> None:
    for column in write.plan.columns:
        if column.existing is None or not column.foreign:
            continue
        problem = ""
        try:
            [(values_lost,)] = session.query(write.values_lost(column, foreign=column.existing.type))
        except LandingError as refused:
            if isinstance(refused, DatabaseError) and not refused.cause.about_rows:
                raise
            problem = f"the database cannot turn one into the other ({refused.what})"
        else:
            if values_lost:
                problem = f"the type would change {values_lost} of the values"
        if problem:
            types = (session.dialect.types[column.incoming], session.dialect.text_type)
            raise LandingError(
                f"{write.plan.table}: column {column.name!r} is {column.existing.type} and {column.incoming} comes: {problem}. "
                f"Change the column to {' or '.join(dict.fromkeys(types))}, "
                f"or rename it; nothing was written"
            )


def _with_fitting_json(*, session: Session, write: Statements) -> Plan:
    """Make text of the JSON columns that hold what the database's JSON type does not take."""

    def fitting(column: Landed) -> Landed:
        if column.kind is not Kind.JSON or column.foreign:
            return column
        unfit = session.unfit_json(stage=write.stage, column=column.staged)
        return column.demoted() if unfit else column

    return replace(write.plan, columns=tuple(fitting(column) for column in write.plan.columns))


def _shape(
    *, session: Session, write: Statements, target: Target, keys: Sequence[Landed] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Make the table, or give it the columns it lacks; answer the columns added to and widened in a table that was there."""
    plan = write.plan
    if not plan.exists:
        unique = keys if target.mode is WriteMode.MERGE and keys is not None else ()
        with during(f"while creating {plan.table}"):
            session.create_table(table=plan.table, columns=write.table_columns(), key=[column.name for column in unique])
        return (), ()
    added = [(column.name, session.dialect.types[column.kind]) for column in plan.columns if column.existing is None]
    added += [(name, write.own_type(name)) for name in plan.own_missing]
    for name, type_ in added:
        with during(f"while adding {plan.table}.{name}"):
            session.execute(write.add_column(name=name, type_=type_))
    widened = []
    for column in plan.columns:
        if column.widens and column.existing is not None and column.held is not None:
            with during(f"while widening {plan.table}.{column.name} to {session.dialect.types[column.kind]}"):
                session.widen(table=plan.table, column=column.existing, source=column.held, to=column.kind)
            widened.append(column.name)
    return tuple(name for name, _ in added), tuple(widened)


def _apply(
    *, session: Session, write: Statements, target: Target, keys: Sequence[Landed] | None, rows: int, kept: int
) -> LoadResult:
    own = (target.extracted_at, target.run_id)
    match target.mode:
        case WriteMode.MERGE:
            return _merge(session=session, write=write, target=target, keys=keys or (), rows=rows, kept=kept)
        case WriteMode.APPEND:
            deleted = session.execute(write.delete_run(), target.run_id)
            [(left,)] = session.query(write.left_of_run(), target.run_id)
        case WriteMode.REPLACE:
            deleted = session.execute(write.delete_all())
            [(left,)] = session.query(write.left_of_all())
    if left:
        raise LandingError(
            f"{write.plan.table}: rows that were deleted are still there, and would stand beside those that come. {KEPT_AWAY}"
        )
    inserted = session.execute(write.insert_in_order(), *own)
    _expect(found=inserted, wanted=kept, write=write)
    return LoadResult(inserted=inserted, deleted=deleted)


def _merge(*, session: Session, write: Statements, target: Target, keys: Sequence[Landed], rows: int, kept: int) -> LoadResult:
    if not kept:
        return LoadResult()
    own = (target.extracted_at, target.run_id)
    rivals = drop_outdated(session=session, write=write, keys=keys, extracted_at=target.extracted_at, rows=rows)
    matches = rivals.matches
    overwrite = write.update(keys)
    updated = 0
    if overwrite is not None and matches > rivals.outdated:
        differing = session.query(write.differing(keys)) if session.may_skip_rows(write.plan.table) else None
        updated = session.execute(overwrite, *own)
        if differing is not None:
            _expect(found=updated, wanted=int(differing[0][0]), write=write)
    inserted = session.execute(write.insert_missing(keys), *own)
    if matches > kept - inserted:
        raise LandingError(
            f"{write.plan.table}: the table holds {matches - kept + inserted} rows more than one for the keys that came, so it "
            f"cannot be merged into; remove the duplicates of the key, or append"
        )
    _expect(found=matches + inserted, wanted=kept, write=write)
    if rivals.timeless:
        log.warning(
            "%s: %d rows came without a time that can be read in %r, and the table's rows, which have one, stayed as they are. "
            "If the records have lost this column for good, drop it from the table",
            write.plan.table,
            rivals.timeless,
            target.time_column,
        )
    unchanged = kept - inserted - updated - rivals.outdated
    return LoadResult(inserted=inserted, updated=updated, unchanged=unchanged, outdated=rivals.outdated)


def _expect(*, found: int, wanted: int, write: Statements) -> None:
    """Refuse to commit when the database's own count of rows does not add up."""
    if found != wanted:
        raise LandingError(f"{write.plan.table}: {wanted} rows were to be written and the database counts {found}. {KEPT_AWAY}")
