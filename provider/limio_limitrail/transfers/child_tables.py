# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Child tables as a task names them: nested lists whose elements become rows of tables of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.parameters.given import is_nothing, is_template, plain, unfit
from limio_limitrail.parameters.readers import mapping, names

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook
    from airflow.sdk import ObjectStoragePath

    from limio_limitrail.api.resource import Resource
    from limio_limitrail.landing.child_lists import ChildList
    from limio_limitrail.landing.manifest import Manifest
    from limio_limitrail.landing.nested_paths import NestedPath
    from limio_limitrail.landing.sql.child_tables import ChildSource
    from limio_limitrail.observability.lineage import LineageDataset


class _ListPath(msgspec.Struct, frozen=True):
    path: NestedPath


class ChildTable(_ListPath, frozen=True, kw_only=True):
    """A nested list whose elements become the rows of a table.

    :param path: where the list is in the record: names joined by dots, or a list of names, as for ``nested_columns``.
    :param key: the members that identify an element among those of its list; by default its position does.
    :param child_tables: lists within the elements, as table → `ChildTable`; their paths begin at the element.
    """

    key: Sequence[str] | str | None = None
    child_tables: Mapping[str, ChildTable | NestedPath] = msgspec.field(default_factory=dict)


def read_child_tables(name: str, value: object) -> dict[str, ChildTable]:
    """Read child tables: a mapping of table to `ChildTable`, to a mapping of its parameters, or to the path alone.

    Empty where nothing is given.
    """
    given = plain(value)
    if is_nothing(given):
        return {}
    tables = {table: _child_table(f"{name}[{table!r}]", child) for table, child in mapping(name, given).items()}
    if unnamed := [table for table in tables if not table.strip()]:
        raise unfit(name, unnamed[0], expected="a mapping of table names to ChildTable(...)")
    return tables


def _child_table(name: str, value: object) -> ChildTable:
    from limio_limitrail.landing.nested_paths import path_parts

    given = plain(value)
    if isinstance(given, ChildTable):
        found: dict[str, Any] = {"path": given.path, "key": given.key, "child_tables": given.child_tables}
    else:
        found = mapping(name, given) if isinstance(given, Mapping) else {"path": given}
    if unknown := sorted(found.keys() - {"path", "key", "child_tables"}):
        raise ParameterError(f"{name} has no {unknown[0]!r}: path, key and child_tables are what it may have")
    path = plain(found.get("path"))
    if is_template([path, found.get("key")]):
        raise ParameterError(
            f"{name}: Airflow does not render what is inside of ChildTable(...): write a mapping instead, such as "
            "{'path': ..., 'key': ...}, in which templates are rendered"
        )
    try:
        path_parts(path)
    except (ValueError, TypeError):
        expected = "ChildTable(path), with a path into the record: names joined by dots, or a list of names"
        raise unfit(name, value if path is None else path, expected=expected) from None
    key = found.get("key")
    return ChildTable(
        path if isinstance(path, str) else tuple(path),
        key=None if is_nothing(plain(key)) else names("members of an element", least=1)(f"{name}.key", key),
        child_tables=read_child_tables(f"{name}.child_tables", found.get("child_tables")),
    )


def check_child_lists(resource: Resource, *, primary_key: tuple[str, ...], mode: str, transform: object) -> None:
    """Check before the pull that its rows can have child rows.

    :raises ParameterError: they cannot.
    """
    if not primary_key:
        raise ParameterError(
            f"child_tables needs a primary key, by which rows find their parent, and resource {resource.name!r} has none: "
            "give primary_key=[...]"
        )
    if transform is not None:
        raise ParameterError(
            "child_tables cannot be combined with transform: it may leave out, add or reorder the records to which the "
            "elements belong. Leave one of them out, or load the child tables in a task of their own"
        )
    if mode == "history":
        raise ParameterError(
            "child_tables cannot be combined with mode='history': a child table has one row an element, not one a version. "
            "Merge into a table of its own, or keep the list as JSON in the versions"
        )


def child_lists(tables: Mapping[str, ChildTable], *, primary_key: tuple[str, ...]) -> tuple[ChildList, ...]:
    """Return the nested lists of a pull.

    :param tables: what `read_child_tables` has read.
    :param primary_key: the columns that identify a record.
    :raises ParameterError: a table is named twice, or a key gives two columns one name.
    """
    from limio_limitrail.landing.child_lists import all_lists

    lists = _lists(tables, parent_key=primary_key)
    found: set[str] = set()
    for child in all_lists(lists):
        if child.table in found:
            raise ParameterError(f"child_tables names the table {child.table!r} twice: each list needs a table of its own")
        found.add(child.table)
        if len(set(child.row_key)) < len(child.row_key):
            raise ParameterError(
                f"child_tables[{child.table!r}]: the columns that identify a row would be {', '.join(child.row_key)}, two of "
                "which have one name: choose other members for key="
            )
    return lists


def _lists(tables: Mapping[str, Any], *, parent_key: tuple[str, ...]) -> tuple[ChildList, ...]:
    import msgspec

    from limio_limitrail.landing.child_lists import ChildList

    lists = []
    for table, child in tables.items():
        one = ChildList(table=table, path=child.path, parent_key=parent_key, key=tuple(child.key or ()))
        lists.append(msgspec.structs.replace(one, children=_lists(child.child_tables, parent_key=one.row_key)))
    return tuple(lists)


def check_child_tables(lists: Sequence[ChildList], *, hook: DbApiHook, table: str, max_columns: int) -> None:
    """Check before the pull that the child tables can be loaded.

    :param table: the parents' table.
    :raises ParameterError: one cannot be, or is the same as another.
    """
    from limio_limitrail.landing.child_lists import all_lists
    from limio_limitrail.landing.sql.child_tables import child_table_name
    from limio_limitrail.landing.sql.model import LandingError
    from limio_limitrail.landing.sql.sessions import find_table, session_class
    from limio_limitrail.landing.sql.table_checks import check_target

    dialect = session_class(hook).dialect
    parent = find_table(table, dialect=dialect)
    taken = {dialect.same_name(str(parent)): table}
    for child in all_lists(lists):
        try:
            name = child_table_name(child.table, parent=parent, dialect=dialect)
            if (other := taken.setdefault(dialect.same_name(str(name)), child.table)) != child.table:
                raise ParameterError(
                    f"child_tables[{child.table!r}]: the table is the same as {other!r}; each list needs a table of its own"
                )
            check_target(
                hook=hook, table=dialect.qualified(name), primary_key=child.row_key, max_columns=max_columns, history=False
            )
        except LandingError as unfit_table:
            raise ParameterError(f"child_tables[{child.table!r}]: {unfit_table.what}") from None


def missing_child_table(lists: Sequence[ChildList], *, hook: DbApiHook, table: str) -> str | None:
    """Return the first child table that the database does not have; None if it has all.

    :param table: the parents' table.
    :raises LandingError: the database cannot be reached or queried.
    """
    from limio_limitrail.landing.child_lists import all_lists
    from limio_limitrail.landing.sql.child_tables import child_table_name
    from limio_limitrail.landing.sql.sessions import find_table, open_session

    if not lists:
        return None
    with open_session(hook, step=f"while looking for the child tables of {table}") as session:
        parent = find_table(table, dialect=session.dialect)
        for child in all_lists(lists):
            if session.columns(child_table_name(child.table, parent=parent, dialect=session.dialect)) is None:
                return child.table
    return None


def child_datasets(lists: Sequence[ChildList], *, hook: DbApiHook, table: str) -> dict[str, LineageDataset]:
    """Return the datasets of the child tables, by the names that the task gives them.

    :param table: the parents' table.
    """
    from limio_limitrail.landing.child_lists import all_lists
    from limio_limitrail.landing.sql.child_tables import child_table_name
    from limio_limitrail.landing.sql.sessions import find_table, session_class
    from limio_limitrail.observability.lineage import table_dataset

    dialect = session_class(hook).dialect
    parent = find_table(table, dialect=dialect)
    names = {child.table: child_table_name(child.table, parent=parent, dialect=dialect) for child in all_lists(lists)}
    return {child: table_dataset(hook, table=str(name)) for child, name in names.items()}


def child_sources(lists: Sequence[ChildList], manifest: Manifest, *, folder: ObjectStoragePath) -> tuple[ChildSource, ...]:
    """Return what was pulled of the lists, for the load."""
    from limio_limitrail.landing.column_parts import ColumnPart
    from limio_limitrail.landing.sql.child_tables import ChildSource

    pulled = {table.table: table for table in manifest.child_tables}
    return tuple(
        ChildSource(
            child=child,
            schema=pulled[child.table].schema,
            parts=[(part.parent, ColumnPart(folder=folder, part=part)) for part in pulled[child.table].parts],
            found=pulled[child.table].found,
            children=child_sources(child.children, manifest, folder=folder),
        )
        for child in lists
    )
