# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Load the elements of nested lists into child tables, in the transaction of their parents' load.

A staged element is bound to the staged row that holds its list by that row's number, so that it shares its fate: an element of
a parent that was dropped as a duplicate, or because the table has a newer row, is dropped as well. A merge then compares the
rows of each remaining parent with those of the child table, and replaces all of them where they differ.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from limio_limitrail.landing.arrow_tables import integer_array
from limio_limitrail.landing.child_lists import PARENT_ROW, POSITION, ChildList
from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.shrinking import shrunk
from limio_limitrail.landing.sql.child_statements import PARENT, ChildStatements
from limio_limitrail.landing.sql.errors import during
from limio_limitrail.landing.sql.metadata import values_of
from limio_limitrail.landing.sql.model import LandingError, LoadResult, PartSource, Target, WriteMode
from limio_limitrail.landing.sql.names import TableName
from limio_limitrail.landing.sql.outdated import drop_stale
from limio_limitrail.landing.sql.plan import ColumnPlan, key_columns
from limio_limitrail.landing.sql.row_writer import ROWS_SKIPPED, expect_rows
from limio_limitrail.landing.sql.sessions import find_table
from limio_limitrail.landing.sql.staged_checks import check_custom_types, check_staged_keys
from limio_limitrail.landing.sql.staged_rows import SEQUENCE, in_kinds, stage_columns
from limio_limitrail.landing.sql.table_load import TableLoad

if TYPE_CHECKING:
    import pyarrow as pa

    from limio_limitrail.landing.sql.dialect import Dialect, TableColumn
    from limio_limitrail.landing.sql.session import Session


_SAME_TEXTS = frozenset({Kind.TEXT, Kind.INTEGER, Kind.BIGINT, None})
"""Kinds whose values have the same texts in all databases; ``None`` is a type that this package does not create."""


@dataclass(frozen=True, kw_only=True)
class ChildSource:
    """What was pulled of a nested list.

    :param child: the list and its child table.
    :param schema: column → the widest kind of all parts, in order.
    :param parts: the parts in order, each with the number of the part that holds the parents.
    :param found: whether the path led to a value in some parent, if only to an empty list or a null.
    :param children: the lists within its elements.
    """

    child: ChildList
    schema: Mapping[str, Kind]
    parts: Sequence[tuple[int, PartSource]]
    found: bool = True
    children: tuple[ChildSource, ...] = ()


def child_table_name(text: str, *, parent: TableName, dialect: Dialect) -> TableName:
    """Read a child table's name; without a schema, it is in that of the parent's table.

    :raises LandingError: it is none, or the database would change it.
    """
    name = find_table(text, dialect=dialect)
    return name if name.schema is not None else replace(name, schema=parent.schema)


def lock_tables(session: Session, *, table: TableName, children: Sequence[ChildSource]) -> None:
    """Lock a table and its child tables, always in the same order, so that no two loads wait for each other."""
    names = [table, *(_name(source, table=table, dialect=session.dialect) for source in all_sources(children))]
    for name in sorted(dict.fromkeys(names), key=str):
        with during(f"while locking {name}"):
            session.lock(name)


def all_sources(children: Sequence[ChildSource]) -> Iterator[ChildSource]:
    """Yield all child tables, each before those of its elements' lists."""
    for source in children:
        yield source
        yield from all_sources(source.children)


def _name(source: ChildSource, *, table: TableName, dialect: Dialect) -> TableName:
    return child_table_name(source.child.table, parent=table, dialect=dialect)


def follow(root: TableLoad, children: Sequence[ChildSource]) -> list[ChildLoad]:
    """Prepare the loads of a table's child tables, before its own runs.

    :raises LandingError: a child table cannot be loaded.
    """
    loads: list[ChildLoad] = []

    def add(sources: Sequence[ChildSource], above: TableLoad) -> None:
        for source in sources:
            load = ChildLoad(source, root=root, above=above)
            loads.append(load)
            add(source.children, load)

    add(children, root)
    root.followers = loads
    return loads


def load_children(root: TableLoad, loads: Sequence[ChildLoad], *, result: LoadResult) -> LoadResult:
    """Load the child tables, after their parents' load.

    A parent whose child rows changed counts as updated, and gets this pull's time, so that an older pull cannot change them.

    :param result: what the parents' load did.
    """
    if root.merges and root.plan.exists and result.rows:
        with during(f"while comparing the pulls of {root.table}"):
            drop_stale(session=root.session, statements=root.statements, keys=_keys(root), extracted_at=root.target.extracted_at)
    results = {load.source.child.table: load.run() for load in loads}
    touched = sum(load.touch_parents() for load in loads)
    if touched:
        root.note_partitions()
        result = replace(result, partitions=root.partitions)
    return replace(result, updated=result.updated + touched, unchanged=result.unchanged - touched, child_tables=results)


class ChildLoad(TableLoad):
    """One load into a child table, in the open transaction of its parents' load.

    :param source: what was pulled.
    :param root: the load of the records.
    :param above: the load of the rows that hold the lists: `root`, or that of another child table.
    """

    _sql: ChildStatements

    def __init__(self, source: ChildSource, *, root: TableLoad, above: TableLoad) -> None:
        self.source = source
        self._root = root
        self._above = above
        child, dialect = source.child, root.session.dialect
        known = {key: _kind(above, key) for key in child.parent_key}
        own = {**dict(zip(child.parent_columns, known.values(), strict=True)), POSITION: Kind.INTEGER}
        super().__init__(
            session=root.session,
            table=_name(source, table=root.table, dialect=dialect),
            target=Target(
                table=child.table,
                mode=root.target.mode,
                primary_key=child.row_key,
                time_column=None,
                run_id=root.target.run_id,
                extracted_at=root.target.extracted_at,
            ),
            schema={**own, **{name: kind for name, kind in source.schema.items() if name not in own}},
            parts=[part for _, part in source.parts],
            progress=None,
            contract=replace(root.contract, required_columns=()),
            partitions=None,
        )
        self._numbers = {number: at for at, (number, _) in enumerate(source.parts)}
        self._came = 0
        mark = uuid.uuid4().hex
        self._sql = ChildStatements(
            dialect=dialect,
            plan=self.plan,
            stage=self._sql.stage,
            time=None,
            parents=f"_limio_parents_{mark}",
            changed=f"_limio_changed_{mark}",
        )
        self._changed = self._deleted = 0
        self._check_columns()

    def _check_columns(self) -> None:
        """Refuse a table that has rows which a child table of this key cannot have."""
        if not self.plan.exists:
            return
        columns = {name: self.plan.column(name) for name in (*self.source.child.parent_columns, POSITION)}
        lacking = [name for name, column in columns.items() if column is None or column.existing is None]
        if lacking and self._count():
            raise LandingError(
                f"{self.table}: the table has rows and no column {lacking[0]!r}, so it is no child table of {self._root.table}, "
                f"or was loaded with another primary key; name another table in child_tables=, or drop this one and run once "
                f"with full_refresh=True; nothing was written"
            )

    def _count(self) -> int:
        """Return how many rows the table has."""
        with during(f"while counting the rows of {self.table}"):
            [(rows, _)] = self.session.query(self._sql.count_rows())
        return int(rows)

    @property
    def _root_columns(self) -> tuple[ColumnPlan, ...]:
        """The columns that repeat the key of the record."""
        names = self.source.child.parent_columns[: len(self._root.target.primary_key)]
        return tuple(column for name in names if (column := self.plan.column(name)) is not None)

    def add_parents(self, rows: pa.Table, *, part: str, start: int) -> None:
        """Note the keys of staged records.

        :param rows: the rows of their part.
        :param part: its name, for messages.
        :param start: the number of the first of them.
        """
        if not self._came and self.merges:
            with during(f"while creating the staging table of {self.table}"):
                self.session.create_stage(stage=self._sql.parents, columns=self._sql.parent_columns(self._root_columns))
        self._came += rows.num_rows
        if not self.merges or not rows.num_rows:
            return
        keys = rows.select([key for key in self._root.target.primary_key if key in rows.column_names])
        names = dict(zip(self._root.target.primary_key, self.source.child.parent_columns, strict=False))
        keys = keys.rename_columns([names[key] for key in keys.column_names])
        staged = in_kinds(rows=keys, part=part, plan=replace(self.plan, columns=self._root_columns))
        numbers = integer_array(range(start, start + rows.num_rows))
        self.session.fill(stage=self._sql.parents, rows=staged.append_column(SEQUENCE, numbers))

    def delete_of_parents(self, condition: str) -> None:
        """Delete the rows of parents that are about to be deleted.

        :param condition: the condition on these, as rows ``t`` of their table.
        """
        if not self.plan.exists:
            return
        columns = {}
        for key, name in zip(self._root.target.primary_key, self.source.child.parent_columns, strict=False):
            own, parent = _column(self, name), _column(self._root, key)
            planned = self._root.plan.column(key)
            if planned is not None and planned.widens:
                # The parents' table was widened before; the child table comes later.
                parent = replace(parent, kind=planned.kind, type=self.session.dialect.types[planned.kind])
            mine, theirs = self._comparable(own, parent)
            columns[mine] = theirs
        statement = self._sql.delete_of(columns, table=self._root.statements.table, condition=condition)
        with during(f"while deleting from {self.table}"):
            self._deleted += self.session.execute(statement)

    def _comparable(self, own: TableColumn, parent: TableColumn) -> tuple[str, str]:
        """Return a column of the child table and that of the parents' table that it repeats, as SQL of one type."""
        dialect = self.session.dialect
        names = dialect.quote(own.name), f"t.{dialect.quote(parent.name)}"
        if own.kind is parent.kind and own.type == parent.type:
            mine, theirs = (dialect.key(name, own.kind or Kind.TEXT) for name in names)
            return mine, theirs
        if not {own.kind, parent.kind} <= _SAME_TEXTS:
            raise LandingError(
                f"{self.table}: column {own.name!r} is {own.type}, and {parent.name!r} of {self._root.table}, which it repeats, "
                f"is {parent.type}, so that the rows of deleted parents cannot be found; drop the child table, and run once "
                f"with full_refresh=True; nothing was written"
            )
        mine, theirs = (dialect.key(f"CAST({name} AS {dialect.text_type})", Kind.TEXT) for name in names)
        return mine, theirs

    def run(self) -> LoadResult:
        """Load; return what was done."""
        result = self._run()
        return replace(result, deleted=result.deleted + self._deleted)

    def _run(self) -> LoadResult:
        if not self._came and (self.merges or not self.plan.exists):
            return LoadResult()
        session, table = self.session, self.table
        with during(f"while creating the staging table of {table}"):
            session.create_stage(stage=self._sql.stage, columns=self._sql.stage_columns())
        with during(f"while copying rows into the staging table of {table}"):
            came = self._fill_stage()
            orphans = session.execute(self._sql.drop_orphans(above=self._above.statements.staged))
        rows = came - orphans
        with during(f"while checking the staged rows of {table}"):
            if self.merges and rows:
                check_staged_keys(session=session, statements=self._sql, primary_key=self.target.primary_key)
            check_custom_types(session=session, statements=self._sql)
            self._demote_invalid_json()
            self.contract.check_types(self.plan, types=session.dialect.types)
            keys = tuple(column for key in self.target.primary_key if (column := self.plan.column(key)) is not None)
            if self.source.child.key and rows:
                self._check_repeated(keys)
        # Without elements the members of the key are not known, and the rest of it identifies no row.
        added, widened = self._evolve(keys if len(keys) == len(self.target.primary_key) else ())
        with during(f"while writing into {table}"):
            applied = self._apply(keys, rows=rows, staged=rows)
        return replace(
            applied,
            rows=came,
            duplicates=orphans,
            columns_added=added,
            columns_widened=widened,
            columns_ignored=self.plan.ignored,
        )

    def _stage_rows(self, group: pa.Table, *, number: int, start: int) -> pa.Table:
        import pyarrow.compute as pc

        part, source = self.source.parts[number]
        above = pc.add(group.column(PARENT_ROW), self._above.start_of(part))
        rows = group.drop_columns([PARENT_ROW])
        staged = stage_columns(rows=rows, part=source.name, plan=self.plan, time=None, start=start)
        return staged.append_column(PARENT, above)

    def start_of(self, part: int) -> int:
        return super().start_of(self._numbers[part])

    def _check_repeated(self, keys: Sequence[ColumnPlan]) -> None:
        [(repeated,)] = self.session.query(self._sql.repeated(keys))
        if repeated:
            names = ", ".join(map(repr, self.source.child.key))
            raise LandingError(
                f"{self.table}: {repeated} times several elements of one list have the same {names}, which key= names to "
                f"identify an element; name other members, or leave key out, so that the position does; nothing was written"
            )

    def _apply(self, keys: Sequence[ColumnPlan], *, rows: int, staged: int) -> LoadResult:
        if self.target.mode is WriteMode.REPLACE and self._has_vanished:
            known = self._count()
            self._guard(missing=known, known=known)
        return super()._apply(keys, rows=rows, staged=staged)

    @property
    def _has_vanished(self) -> bool:
        """Whether no parent has anything at the list's path, which looks like an API that changed."""
        has_parents = self._above.source.parts if isinstance(self._above, ChildLoad) else self._came
        return bool(has_parents) and not self.source.found

    def _guard(self, *, missing: int, known: int) -> None:
        """Refuse to delete many rows because their list has vanished.

        :raises ShrunkListError: more rows would go than the target of the records allows.
        """
        guard = self._root.target.max_missing
        if guard is not None and guard.refuses(missing=missing, known=known, empty=False):
            raise shrunk(
                f"{self.table}: no parent has anything at {self.source.child.path!r}, from which child_tables= reads the rows",
                missing=missing,
                known=known,
                guard=guard,
                consequence="nothing was written",
            )

    def _merge(self, keys: Sequence[ColumnPlan], *, rows: int, staged: int) -> LoadResult:  # noqa: ARG002
        session, sql, root = self.session, self._sql, self._root_columns
        session.execute(sql.drop_parents(root=self._root.statements.staged))
        session.analyze(stage=sql.parents)
        if self._has_vanished:
            [(missing,)] = session.query(sql.rows_of_parents(root))
            self._guard(missing=int(missing), known=self._count())
        session.create_stage(stage=sql.changed, columns=[(SEQUENCE, session.dialect.integer_type)])
        self._changed = session.execute(sql.find_changed(keys, root))
        deleted = inserted = 0
        if self._changed:
            session.analyze(stage=sql.changed)
            [(wanted,)] = session.query(sql.count_changed(root))
            deleted = session.execute(sql.delete_changed(root))
            inserted = session.execute(sql.insert_changed(root), *values_of(self.plan.metadata))
            expect_rows(self.table, found=inserted, wanted=int(wanted))
        [(total,)] = session.query(sql.rows_of_parents(root))
        if total != staged:
            raise LandingError(
                f"{self.table}: {staged} rows belong to the parents that came, and the table has {total} of them. {ROWS_SKIPPED}"
            )
        return LoadResult(inserted=inserted, deleted=deleted, unchanged=staged - inserted)

    def touch_parents(self) -> int:
        """Write this pull into the metadata columns of the parents whose rows changed; return how many had another's."""
        if not self._changed:
            return 0
        root, session, changed = self._root, self.session, self._sql.changed
        keys = _keys(root)
        with during(f"while updating {root.table}"):
            [(others,)] = session.query(root.statements.count_untouched(keys, changed=changed), root.target.run_id)
            session.update_rows(root.statements.touch(keys, changed=changed), *values_of(root.plan.updated_metadata))
        return int(others)


def _keys(load: TableLoad) -> tuple[ColumnPlan, ...]:
    return key_columns(plan=load.plan, keys=load.target.primary_key) or ()


def _column(load: TableLoad, key: str) -> TableColumn:
    """Return the table's column of a record key, as it was before the load."""
    column = load.plan.column(key)
    if column is None or column.existing is None:
        found = load.plan.missing_column(key, same=load.session.dialect.same_name)
        if found is None:
            raise LandingError(f"{load.table}: the table has no column {key!r}, which its key names; nothing was written")
        return found
    return column.existing


def _kind(above: TableLoad, key: str) -> Kind:
    """Return the kind of a column in the table above, so that the child table's column is of the same type."""
    column = above.plan.column(key)
    return Kind.NULL if column is None else column.kind
