# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Tables of files, read back without the package's own readers."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from tests.support.places import Bucket, LocalPlace

OWN = ("_run_id", "_extracted_at")


@dataclass(frozen=True, kw_only=True)
class Lake:
    """A folder or a bucket with tables of one format.

    :param format: of the tables.
    :param place: the folder or the bucket.
    :param catalog: the file of the Iceberg catalog.
    """

    format: str
    place: LocalPlace | Bucket
    catalog: Path

    @property
    def parameters(self) -> str:
        """The operator's parameters, as Python."""
        catalog = ', catalog_conn_id="catalog"' if self.format == "iceberg" else ""
        return f'destination="filesystem", bucket_url={self.place.url!r}, table_format={self.format!r}{catalog}, dataset="lake"'

    @property
    def connections(self) -> dict[str, Any]:
        return {**self.place.connections, "catalog": {"conn_type": "sqlite", "host": str(self.catalog)}}

    def read(self, table: str) -> pa.Table:
        """All rows of a table; one without columns if it does not exist."""
        if self.format == "iceberg":
            return self._iceberg(table)
        folder = self.folder()
        if self.format == "delta":
            from deltalake import DeltaTable, QueryBuilder

            if not (folder / "lake" / table / "_delta_log").exists():
                return pa.table({})
            reader = QueryBuilder().register("t", DeltaTable(str(folder / "lake" / table))).execute("SELECT * FROM t")
            return pa.table(reader)
        found = f"{folder}/lake/{table}/*.parquet"
        if not list((folder / "lake" / table).glob("*.parquet")):
            return pa.table({})
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            read = connection.sql(f"SELECT * FROM read_parquet('{found}', union_by_name => true)")
            return read.to_arrow_table() if hasattr(read, "to_arrow_table") else read.fetch_arrow_table()

    def _iceberg(self, table: str) -> pa.Table:
        from pyiceberg.catalog.sql import SqlCatalog
        from pyiceberg.exceptions import NoSuchTableError

        try:
            return self.catalog_of(SqlCatalog).load_table(("lake", table)).scan().to_arrow()
        except NoSuchTableError:
            return pa.table({})

    def catalog_of(self, kind: Any) -> Any:
        extra: dict[str, str] = {}
        if isinstance(self.place, Bucket):
            extra = {
                "s3.endpoint": str(self.place.client.meta.endpoint_url),
                "s3.access-key-id": "root",
                "s3.secret-access-key": "root",
                "s3.region": "us-east-1",
            }
        return kind("default", uri=f"sqlite:///{self.catalog}", **extra)

    def folder(self) -> Path:
        """The folder, or a copy of what the bucket has."""
        if isinstance(self.place, LocalPlace):
            return Path(self.place.url.removeprefix("file://"))
        copy = Path(tempfile.mkdtemp())
        for name, content in self.place.everything().items():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes(content)
        return copy

    def rows(self, table: str) -> list[tuple[Any, ...]]:
        """The rows in order, as texts, without the columns that a load adds."""
        found = self.read(table)
        names = sorted(name for name in found.column_names if name not in OWN)
        quoted = [name.replace(chr(34), chr(34) * 2) for name in names]
        listed = ", ".join(f'CAST("{name}" AS varchar)' for name in quoted)
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            connection.register("found", found)
            order = ", ".join(str(at + 1) for at in range(len(names)))
            return connection.execute(f"SELECT {listed} FROM found ORDER BY {order}").fetchall()

    def values(self, table: str, column: str) -> list[Any]:
        found = self.read(table)
        return sorted(found.column(column).to_pylist(), key=repr) if found.num_columns else []

    def count(self, table: str) -> int:
        return int(self.read(table).num_rows)

    def drop(self, table: str) -> None:
        """Remove a table with all of its files."""
        if self.format == "iceberg":
            from pyiceberg.catalog.sql import SqlCatalog

            self.catalog_of(SqlCatalog).drop_table(("lake", table))
        for name in self.place.names():
            if name.startswith(f"lake/{table}/"):
                self.place.remove(name)

    def names(self) -> list[str]:
        """The names of all files."""
        return self.place.names()
