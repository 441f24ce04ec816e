# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The load alone of parts that a pull has left: by this package's own code, and by dlt's destinations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limio_limitrail.landing.column_parts import ColumnPart
    from limio_limitrail.landing.manifest import Manifest
    from limio_limitrail.landing.sql import Target

TABLE = "lake.subscriptions"


def sql_duckdb(parts: str, folder: Path) -> int:
    """Merge into DuckDB by this package's own code."""
    from airflow.providers.duckdb.hooks.duckdb import DuckDBHook

    return _sql(DuckDBHook("duck"), parts)


def sql_postgres(parts: str, folder: Path, dsn: str) -> int:
    """Merge into Postgres by this package's own code."""
    from airflow.providers.postgres.hooks.postgres import PostgresHook

    return _sql(PostgresHook("post"), parts)


def dlt_duckdb(parts: str, folder: Path) -> int:
    """Merge into DuckDB by dlt."""
    return _dlt("duckdb", "duck", parts, folder)


def dlt_postgres(parts: str, folder: Path, dsn: str) -> int:
    """Merge into Postgres by dlt."""
    return _dlt("postgres", "post", parts, folder)


def _sql(hook: Any, parts: str) -> int:
    from limio_limitrail.landing.sql import load

    manifest, sources = _pulled(parts)
    # dlt creates the schema by itself.
    hook.run("CREATE SCHEMA IF NOT EXISTS lake")
    load(hook=hook, target=_target(manifest), schema=manifest.schema, parts=sources)
    return manifest.rows


def _dlt(name: str, conn_id: str, parts: str, folder: Path) -> int:
    from limio_limitrail.hooks.destinations.find import find_destination
    from limio_limitrail.landing.dlt.load import load
    from limio_limitrail.landing.dlt.target import DltTarget

    manifest, sources = _pulled(parts)
    destination = find_destination(name, conn_id=conn_id)
    dataset, table = TABLE.split(".")
    to = DltTarget(destination=destination, dataset=dataset, table=table, folder=folder / "dlt")
    load(to=to, target=_target(manifest), schema=manifest.schema, parts=sources)
    return manifest.rows


def _pulled(parts: str) -> tuple[Manifest, list[ColumnPart]]:
    from airflow.sdk import ObjectStoragePath

    from limio_limitrail.landing.column_parts import ColumnPart
    from limio_limitrail.landing.manifest import read_manifest

    folder = ObjectStoragePath(parts)
    manifest = read_manifest(folder)
    return manifest, [ColumnPart(folder=folder, part=part) for part in manifest.parts]


def _target(manifest: Manifest) -> Target:
    from limio_limitrail.landing.sql import Target, WriteMode

    return Target(
        table=TABLE,
        mode=WriteMode.MERGE,
        primary_key=("id",),
        time_column="updated",
        run_id="one",
        extracted_at=manifest.started_at,
    )
