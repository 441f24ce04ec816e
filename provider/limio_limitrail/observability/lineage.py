# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a task tells OpenLineage: what it read, what it left and where, how many rows, which columns.

All of it is put together while the task runs, because Airflow asks for it in a fork of the task's process, which can look nothing
up any more. Nothing is done where Airflow's OpenLineage provider is not installed, or is not set up to send anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from limio_limitrail.addresses import UNREADABLE, database_name, without_credentials

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook
    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.sdk import ObjectStoragePath

_PORT = re.compile(r":\d{1,5}$")


@dataclass(frozen=True, kw_only=True)
class Place:
    """What OpenLineage calls a dataset.

    :param namespace: where it is: a scheme and a host, or a file system.
    :param name: what it is called there.
    """

    namespace: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Flow:
    """What flows from where to where.

    :param source: what was read; none where that cannot be told.
    :param targets: what was written to.
    :param columns: the columns that came, and their kinds; empty where they are not known.
    :param rows: how many rows came; none as long as that is not known.
    :param files: how many files were left, where it is a folder.
    :param size: their bytes.
    """

    source: Place | None
    targets: tuple[Place, ...]
    columns: Mapping[str, str] = field(default_factory=dict)
    rows: int | None = None
    files: int | None = None
    size: int | None = None


def is_lineage_wanted() -> bool:
    """Tell whether OpenLineage's provider is there and sends anywhere."""
    try:
        from airflow.providers.openlineage import conf
    except ImportError:
        return False
    return not conf.is_disabled()


def list_place(*, scheme: str, base_url: str, resource: str) -> Place:
    """Name a list of an API's, as its asset URI does."""
    host = without_credentials(base_url).partition("://")[2].partition("/")[0]
    return Place(namespace=f"{scheme}://{host.lower()}", name=resource)


def table_place(hook: DbApiHook, *, table: str) -> Place:
    """Name a table as the database's own hook does; where it has no word for it, by the connection's type and host."""
    connection = hook.get_connection(hook.get_conn_id())
    info = hook.get_openlineage_database_info(connection)
    if info is not None and info.authority:
        schema = None if "." in table else hook.get_openlineage_default_schema()
        database = database_name(info.database) if info.database else None
        return Place(
            namespace=f"{info.scheme}://{_authority(info.authority, host=connection.host or '')}",
            name=".".join(part for part in (database, schema, table) if part),
        )
    # DuckDB's hook knows more places for the database's name than the host.
    database = str(hook.get_database()) if hasattr(hook, "get_database") else connection.host or ""
    return Place(namespace=f"{connection.conn_type}://{without_credentials(database)}", name=table)


def _authority(authority: str, *, host: str) -> str:
    """Return what a hook calls a database's server; where the connection's host is more than a host, what is one of it."""
    bare = without_credentials(host)
    if bare == host.strip() or bare == UNREADABLE:
        return without_credentials(authority)
    bare = bare.rpartition("://")[2].partition("/")[0] or UNREADABLE
    port = _PORT.search(authority)
    return bare + port[0] if port and not _PORT.search(bare) else bare


def folder_place(folder: ObjectStoragePath) -> Place:
    """Name a folder: a bucket or a file system, and a path."""
    protocol = folder.protocol or "file"
    if protocol in {"file", "local"}:
        return Place(namespace="file", name=without_credentials(folder.path))
    bucket, _, path = without_credentials(str(folder)).rpartition("://")[2].partition("/")
    return Place(namespace=f"{protocol}://{bucket}", name=path.strip("/"))


def as_openlineage(flow: Flow) -> OperatorLineage:
    """Give what OpenLineage's provider is told."""
    from airflow.providers.common.compat.openlineage.facet import (
        Dataset,
        OutputDataset,
        OutputStatisticsOutputDatasetFacet,
        SchemaDatasetFacet,
        SchemaDatasetFacetFields,
    )
    from airflow.providers.openlineage.extractors import OperatorLineage

    facets: dict[str, Any] = {}
    if flow.columns:
        fields = [SchemaDatasetFacetFields(name=name, type=kind) for name, kind in flow.columns.items()]
        facets["schema"] = SchemaDatasetFacet(fields=fields)
    statistics: dict[str, Any] = {}
    if flow.rows is not None:
        statistics["outputStatistics"] = OutputStatisticsOutputDatasetFacet(
            rowCount=flow.rows, size=flow.size, fileCount=flow.files
        )
    return OperatorLineage(
        inputs=[Dataset(namespace=flow.source.namespace, name=flow.source.name, facets=dict(facets))] if flow.source else [],
        outputs=[
            OutputDataset(namespace=target.namespace, name=target.name, facets=dict(facets), outputFacets=dict(statistics))
            for target in flow.targets
        ],
    )
