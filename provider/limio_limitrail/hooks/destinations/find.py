# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Make dlt's destinations by name, with everything that dlt would look up given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.bare_errors import raises_bare
from limio_limitrail.hooks.destinations.fields import ConnectionFields, connection_fields
from limio_limitrail.hooks.destinations.model import Mapped, seal
from limio_limitrail.hooks.destinations.staging import check_staging

if TYPE_CHECKING:
    from dlt.common.destination import Destination

_ROOM = "limio_limitrail.hooks.destinations"


@dataclass(frozen=True, kw_only=True)
class Place:
    """A warehouse or an object store, and the connections that lead to it.

    :param mapped_by: module and function that map a connection.
    :param conn_types: the types of connections.
    """

    mapped_by: str
    conn_types: tuple[str, ...]


WAREHOUSES: Mapping[str, Place] = {
    "athena": Place(mapped_by="amazon:map_athena", conn_types=("athena", "aws")),
    "bigquery": Place(mapped_by="google:map_bigquery", conn_types=("gcpbigquery", "google_cloud_platform")),
    "clickhouse": Place(mapped_by="clickhouse:map_clickhouse", conn_types=("clickhouse",)),
    "databricks": Place(mapped_by="databricks:map_databricks", conn_types=("databricks",)),
    "duckdb": Place(mapped_by="duckdb:map_duckdb", conn_types=("duckdb",)),
    "fabric": Place(mapped_by="microsoft:map_fabric", conn_types=("mssql", "odbc")),
    "motherduck": Place(mapped_by="duckdb:map_motherduck", conn_types=("duckdb",)),
    "mssql": Place(mapped_by="microsoft:map_mssql", conn_types=("mssql", "odbc")),
    "postgres": Place(mapped_by="postgres:map_postgres", conn_types=("postgres",)),
    "redshift": Place(mapped_by="amazon:map_redshift", conn_types=("redshift",)),
    "snowflake": Place(mapped_by="snowflake:map_snowflake", conn_types=("snowflake",)),
    "sqlalchemy": Place(mapped_by="mysql:map_mysql", conn_types=("mysql",)),
    "synapse": Place(mapped_by="microsoft:map_synapse", conn_types=("mssql", "odbc")),
}
"""The warehouses by dlt's name of them."""

_FILES = "filesystem"


STORES: Mapping[str, Place] = {
    **dict.fromkeys(("s3", "s3a"), Place(mapped_by="amazon:map_s3", conn_types=("aws",))),
    **dict.fromkeys(("gs", "gcs"), Place(mapped_by="google:map_gcs", conn_types=("google_cloud_platform", "gcpbigquery"))),
    **dict.fromkeys(("az", "abfs", "abfss"), Place(mapped_by="azure:map_azure", conn_types=("wasb", "adls", "azure_data_lake"))),
}
"""The object stores by the scheme of their URLs."""

_SCHEMES = {"s3a": "s3", "gcs": "gs", "abfs": "abfss"}
"""What dlt calls them."""


def destination_names() -> tuple[str, ...]:
    """Return the names that `find_destination` knows."""
    return (*WAREHOUSES, _FILES)


@raises_bare
def find_destination(
    name: str,
    *,
    conn_id: str | None,
    url: str | None = None,
    staging: Destination[Any, Any] | None = None,
) -> Destination[Any, Any]:
    """Make a destination out of an Airflow connection; dlt looks up nothing for it.

    :param name: dlt's name of the destination, such as ``snowflake``.
    :param conn_id: the connection; None for ``filesystem`` with a local folder, or with the connection's id in the URL.
    :param url: the folder of ``filesystem``, such as ``s3://my_conn@bucket/folder``.
    :param staging: the bucket through which files go, as `find_staging` makes it.
    :raises ParameterError: there is no such destination or connection, or they do not go together.
    :raises ConnectionFieldError: a field of the connection is missing, wrong, or corresponds to nothing.
    """
    if name == _FILES:
        if staging is not None:
            raise ParameterError("staging= is for warehouses; destination='filesystem' writes to the bucket itself")
        if not url:
            raise ParameterError("destination='filesystem' needs the URL of a folder, such as s3://my_conn@bucket/folder")
        return _filesystem(url, conn_id=conn_id, parameter="url", is_staging=False)
    warehouse = WAREHOUSES.get(name)
    if warehouse is None:
        raise ParameterError(f"destination={name!r} must be one of {', '.join(destination_names())}")
    if url:
        raise ParameterError(f"a URL is for destination='filesystem'; the connection says where {name} is")
    if not conn_id:
        raise ParameterError(
            f"destination={name!r} needs destination_conn_id, a connection of type {' or '.join(warehouse.conn_types)}"
        )
    bucket = {} if staging is None else staging.config_params
    check_staging(name, url=bucket.get("bucket_url"), credentials=bucket.get("credentials"))
    fields = connection_fields(conn_id, conn_types=warehouse.conn_types, destination=name)
    mapped = _map(warehouse.mapped_by, fields)
    factory = getattr(import_module("dlt.destinations"), name)
    return _made(factory, mapped, staged=staging is not None)


@raises_bare
def find_staging(url: str) -> Destination[Any, Any]:
    """Make the staging destination of a warehouse.

    :param url: the folder, such as ``s3://my_conn@bucket/folder``; ``gs``, ``az`` and ``abfss`` likewise.
    :raises ParameterError: the URL does not fit, or there is no such connection.
    :raises ConnectionFieldError: a field of the connection is missing, wrong, or corresponds to nothing.
    """
    return _filesystem(url, conn_id=None, parameter="staging", is_staging=True)


def _filesystem(url: str, *, conn_id: str | None, parameter: str, is_staging: bool) -> Destination[Any, Any]:
    from dlt.destinations import filesystem

    try:
        parts = urlsplit(url)
        in_url, bucket = parts.username, parts.hostname
        has_more = bool(parts.password or parts.query or parts.fragment or parts.port)
    except ValueError:
        in_url, bucket, has_more = None, None, True
    if has_more:
        raise ParameterError(f"{parameter}= must be scheme://connection@bucket/folder, without a password, a port and a query")
    if not parts.scheme or parts.scheme == "file":
        return _local(url, path=parts.path, conn_id=conn_id or in_url, parameter=parameter, is_staging=is_staging)
    store = STORES.get(parts.scheme)
    if store is None or not bucket:
        raise ParameterError(f"{parameter}= must begin with one of {', '.join(STORES)} or file, and name a bucket")
    if conn_id and in_url and conn_id != in_url:
        raise ParameterError(f"{parameter}= names the connection {in_url!r} and conn_id another, {conn_id!r}; name one")
    found = conn_id or in_url
    if not found:
        raise ParameterError(f"{parameter}= names no connection; write {parts.scheme}://my_conn@{bucket}{parts.path}")
    fields = connection_fields(found, conn_types=store.conn_types, destination=_FILES)
    mapped = _map(store.mapped_by, fields)
    # Not the parsed name, which is in lower case.
    bucket_url = urlunsplit((_SCHEMES.get(parts.scheme, parts.scheme), parts.netloc.rpartition("@")[2], parts.path, "", ""))
    return _made(filesystem, mapped, bucket_url=bucket_url, is_staging=is_staging)


def _local(url: str, *, path: str, conn_id: str | None, parameter: str, is_staging: bool) -> Destination[Any, Any]:
    from dlt.destinations import filesystem

    if conn_id:
        raise ParameterError(f"{parameter}={url!r} is a local folder, which no connection leads to; leave the connection out")
    if not path.startswith("/"):
        raise ParameterError(f"{parameter}={url!r} must be an absolute path: a task's working folder is not yours to choose")
    return _made(filesystem, Mapped(credentials=None), bucket_url=f"file://{path}", is_staging=is_staging)


def _map(mapped_by: str, fields: ConnectionFields) -> Mapped:
    module, _, function = mapped_by.partition(":")
    mapped: Mapped = getattr(import_module(f"{_ROOM}.{module}"), function)(fields)
    fields.finish()
    return mapped


def _made(
    factory: Any, mapped: Mapped, *, bucket_url: str | None = None, staged: bool = False, is_staging: bool = False
) -> Destination[Any, Any]:
    bucket = {} if bucket_url is None else {"bucket_url": bucket_url}
    destination: Destination[Any, Any] = factory(credentials=mapped.credentials, **mapped.settings, **bucket)
    seal(destination, staged=staged, is_staging=is_staging)
    return destination
