# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The table of a warehouse, and dlt's client of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlt.common.destination import Destination

SCHEMA = "limio_limitrail"
"""The name of dlt's schema and pipeline."""

MYSQL = frozenset({"mysql", "mariadb"})
"""What SQLAlchemy calls MySQL and MariaDB."""


@dataclass(frozen=True, kw_only=True)
class DltTarget:
    """The table of a warehouse.

    :param destination: dlt's destination, with its credentials.
    :param staging: dlt's destination through which files go into the warehouse; ``None`` if it needs none.
    :param dataset: the dataset or schema.
    :param table: the table in it.
    :param folder: the run's working folder, which does not exist yet.
    :param table_format: ``parquet``, ``delta`` or ``iceberg``, if the table is files.
    :param catalog: of Iceberg tables: the properties of pyiceberg's catalog; ``None`` for other tables.
    """

    destination: Destination[Any, Any]
    dataset: str
    table: str
    folder: Path
    staging: Destination[Any, Any] | None = None
    table_format: str | None = None
    catalog: Mapping[str, Any] | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{self.dataset}.{self.table}"

    def stage(self, run_id: str) -> str:
        """Return the name of the dataset through which the rows of a run go."""
        return f"limio_stage_{hashlib.sha256(json.dumps([self.dataset, self.table, run_id]).encode()).hexdigest()[:16]}"


@contextmanager
def opened(to: DltTarget, *, run_id: str) -> Iterator[Any]:
    """Let dlt run privately, and return the client of the destination."""
    from limio_limitrail.landing.dlt.exact_jobs import with_exact_jobs
    from limio_limitrail.landing.dlt.private_run import private_run

    with private_run(to.folder):
        import dlt

        # Among its own options, which win over settings.
        to.destination.config_params["staging_dataset_name_layout"] = to.stage(run_id)
        if to.table_format is None:
            # dlt would empty the table first, and fill it in transactions of their own.
            to.destination.config_params["replace_strategy"] = "insert-from-staging"
        destination = with_exact_jobs(to.destination)
        config = destination.spec()._bind_dataset_name(dataset_name=to.dataset)  # noqa: SLF001 - as dlt's pipelines do
        yield destination.client(dlt.Schema(SCHEMA), config)


def database_kind(to: DltTarget, client: Any) -> str:
    """Return what the database of a destination is called here: dlt's name of it, or ``mysql`` behind SQLAlchemy.

    :param client: dlt's client of the destination.
    """
    kind = to.destination.destination_type.rpartition(".")[2]
    return "mysql" if kind == "sqlalchemy" and client.sql_client.dialect_name in MYSQL else kind
