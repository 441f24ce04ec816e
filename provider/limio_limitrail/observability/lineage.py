# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""OpenLineage: what a task reads and writes, how many rows, which columns.

All of it is collected while the task runs, because Airflow asks for it in a fork of the task's process, which cannot look up
connections. Nothing is collected if Airflow's OpenLineage provider is not installed, or is not set up to send anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from limio_limitrail.addresses import UNREADABLE, database_name, without_credentials
from limio_limitrail.lazy import lazy_pattern

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook
    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.sdk import ObjectStoragePath

_PORT = lazy_pattern(r":\d{1,5}$")


class LineageDataset(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset of OpenLineage.

    :param namespace: a scheme and a host, or a file system.
    :param name: its name there.
    """

    namespace: str
    name: str


class LineageChildTable(msgspec.Struct, frozen=True, kw_only=True):
    """A child table that a task writes.

    :param dataset: the table.
    :param columns: the columns and their types; empty if they are not known.
    :param rows: the number of rows; None as long as it is not known.
    """

    dataset: LineageDataset
    columns: Mapping[str, str] = msgspec.field(default_factory=dict)
    rows: int | None = None


class TaskLineage(msgspec.Struct, frozen=True, kw_only=True):
    """What a task reads and writes.

    :param source: the dataset that it reads; None if that is not known.
    :param targets: the datasets that it writes.
    :param columns: the columns and their types; empty if they are not known.
    :param rows: the number of rows; None as long as it is not known.
    :param files: the number of files, if the target is a folder.
    :param size: their bytes.
    :param child_tables: the child tables that it writes, by the names that the task gives them.
    """

    source: LineageDataset | None
    targets: tuple[LineageDataset, ...]
    columns: Mapping[str, str] = msgspec.field(default_factory=dict)
    rows: int | None = None
    files: int | None = None
    size: int | None = None
    child_tables: Mapping[str, LineageChildTable] = msgspec.field(default_factory=dict)


def is_lineage_wanted() -> bool:
    """Return whether OpenLineage's provider is installed and sends anywhere."""
    try:
        from airflow.providers.openlineage import conf
    except ImportError:
        return False
    return not conf.is_disabled()


def list_dataset(*, scheme: str, base_url: str, resource: str) -> LineageDataset:
    """Return the dataset of an API's list, named as in its asset URI."""
    host = without_credentials(base_url).partition("://")[2].partition("/")[0]
    return LineageDataset(namespace=f"{scheme}://{host.lower()}", name=resource)


def table_dataset(hook: DbApiHook, *, table: str) -> LineageDataset:
    """Return the dataset of a table, named as the database's hook does, else by the connection's type and host."""
    connection = hook.get_connection(hook.get_conn_id())
    info = hook.get_openlineage_database_info(connection)
    if info is not None and info.authority:
        schema = None if "." in table else hook.get_openlineage_default_schema()
        database = database_name(info.database) if info.database else None
        return LineageDataset(
            namespace=f"{info.scheme}://{_authority(info.authority, host=connection.host or '')}",
            name=".".join(part for part in (database, schema, table) if part),
        )
    # DuckDB's hook reads the database's name from more fields than the host.
    database = str(hook.get_database()) if hasattr(hook, "get_database") else connection.host or ""
    return LineageDataset(namespace=f"{connection.conn_type}://{without_credentials(database)}", name=table)


def _authority(authority: str, *, host: str) -> str:
    """Return a hook's name of a database's server, without what a connection's host holds besides a host."""
    bare = without_credentials(host)
    if bare == host.strip() or bare == UNREADABLE:
        return without_credentials(authority)
    bare = bare.rpartition("://")[2].partition("/")[0] or UNREADABLE
    port = _PORT.search(authority)
    return bare + port[0] if port and not _PORT.search(bare) else bare


def folder_dataset(folder: ObjectStoragePath) -> LineageDataset:
    """Return the dataset of a folder: a bucket or a file system, and a path."""
    protocol = folder.protocol or "file"
    if protocol in {"file", "local"}:
        return LineageDataset(namespace="file", name=without_credentials(folder.path))
    bucket, _, path = without_credentials(str(folder)).rpartition("://")[2].partition("/")
    return LineageDataset(namespace=f"{protocol}://{bucket}", name=path.strip("/"))


def as_openlineage(lineage: TaskLineage) -> OperatorLineage:
    """Return a task's lineage in OpenLineage's own classes."""
    from airflow.providers.common.compat.openlineage.facet import (
        Dataset,
        OutputDataset,
        OutputStatisticsOutputDatasetFacet,
        SchemaDatasetFacet,
        SchemaDatasetFacetFields,
    )
    from airflow.providers.openlineage.extractors import OperatorLineage

    def schema(columns: Mapping[str, str]) -> dict[str, Any]:
        fields = [SchemaDatasetFacetFields(name=name, type=kind) for name, kind in columns.items()]
        return {"schema": SchemaDatasetFacet(fields=fields)} if fields else {}

    def statistics(rows: int | None, *, files: int | None = None, size: int | None = None) -> dict[str, Any]:
        if rows is None:
            return {}
        return {"outputStatistics": OutputStatisticsOutputDatasetFacet(rowCount=rows, size=size, fileCount=files)}

    def output(dataset: LineageDataset, *, columns: Mapping[str, str], figures: dict[str, Any]) -> OutputDataset:
        return OutputDataset(namespace=dataset.namespace, name=dataset.name, facets=schema(columns), outputFacets=figures)

    outputs = [
        output(target, columns=lineage.columns, figures=statistics(lineage.rows, files=lineage.files, size=lineage.size))
        for target in lineage.targets
    ]
    outputs += [
        output(child.dataset, columns=child.columns, figures=statistics(child.rows)) for child in lineage.child_tables.values()
    ]
    source = lineage.source
    inputs = [] if source is None else [Dataset(namespace=source.namespace, name=source.name, facets=schema(lineage.columns))]
    return OperatorLineage(inputs=inputs, outputs=outputs)


class LineageMixin:
    """Let an operator collect its lineage while it runs. A task never fails because of it."""

    log: Any
    _lineage: TaskLineage | None = None

    def collect_lineage(self, make: Callable[[], TaskLineage]) -> None:
        """Collect what the task reads and writes, if OpenLineage is set up.

        :param make: returns it; may look up connections.
        """
        try:
            self._lineage = make() if is_lineage_wanted() else None
        except Exception as error:  # noqa: BLE001 - see above
            self.log.warning("OpenLineage gets no lineage of this task (%s).", type(error).__name__)

    def update_lineage(self, **fields: Any) -> None:
        """Add results: fields of `TaskLineage`."""
        if self._lineage is not None:
            self._lineage = msgspec.structs.replace(self._lineage, **fields)

    def update_child_lineage(self, table: str, *, columns: Mapping[str, str], rows: int) -> None:
        """Add the results of a child table.

        :param table: its name, as the task gives it.
        """
        if self._lineage is not None and (child := self._lineage.child_tables.get(table)) is not None:
            child = msgspec.structs.replace(child, columns=columns, rows=rows)
            self.update_lineage(child_tables={**self._lineage.child_tables, table: child})

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:  # noqa: ARG002 - as OpenLineage's provider calls it
        """Return the lineage for OpenLineage's provider; after a failure, what was known by then."""
        return None if self._lineage is None else as_openlineage(self._lineage)
