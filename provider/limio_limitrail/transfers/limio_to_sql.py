# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""LimioToSqlOperator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from limio_limitrail.parameters.declared import Parameter, not_rendered, template_fields
from limio_limitrail.transfers.base import DEFAULT_MAX_COLUMNS, DEFAULT_OVERLAP, DEFAULT_STAGED_ROWS
from limio_limitrail.transfers.missing import DEFAULT_MAX_MISSING
from limio_limitrail.transfers.sources import LimioPullOperator
from limio_limitrail.transfers.to_sql import DEFAULT_MAX_PARTITIONS, ResourceToSqlOperator

if TYPE_CHECKING:
    import pandas as pd
    from airflow.sdk import ObjectStoragePath

    from limio_limitrail.api.resource import Resource
    from limio_limitrail.landing.checks import Check
    from limio_limitrail.landing.nested_paths import NestedPath
    from limio_limitrail.parameters.declared import Templated
    from limio_limitrail.parameters.operator_arguments import OperatorArguments
    from limio_limitrail.transfers.child_tables import ChildTable


class LimioToSqlOperator(LimioPullOperator, ResourceToSqlOperator):
    """Pull a Limio resource into a table, in one transaction.

    The parameters are described with `LimioPullOperator`, `ResourceToSqlOperator`, `ResourceToTableOperator` and
    `ResourcePullOperator`.
    """

    parameters: ClassVar[Mapping[str, Parameter]] = {**ResourceToSqlOperator.parameters, **LimioPullOperator.parameters}
    template_fields: Sequence[str] = template_fields(parameters)

    def __init__(
        self,
        *,
        resource: Templated[str | Resource],
        sql_conn_id: Templated[str],
        table: Templated[str],
        mode: Templated[str] = "merge",
        primary_key: Templated[Sequence[str]] | None = None,
        time_column: Templated[str] | None = None,
        child_tables: Templated[Mapping[str, ChildTable | NestedPath]] | None = None,
        on_missing: Templated[str] = "keep",
        max_missing: Templated[int | str] = DEFAULT_MAX_MISSING,
        staging: Templated[str | ObjectStoragePath] | None = None,
        load: Templated[str] = "auto",
        new_columns: Templated[str] = "add",
        type_changes: Templated[str] = "widen",
        required_columns: Templated[Sequence[str]] = (),
        checks: Templated[Sequence[Check]] = (),
        dry_run: Templated[bool] = False,
        partition_column: Templated[str] | None = None,
        max_partitions: Templated[int] = DEFAULT_MAX_PARTITIONS,
        limio_conn_id: Templated[str] = "limio_default",
        path_params: Templated[Mapping[str, Any]] | None = None,
        query_params: Templated[Mapping[str, Any]] | None = None,
        page_size: Templated[int] | None = None,
        since: Templated[datetime] | None = None,
        incremental: Templated[bool] = False,
        full_refresh: Templated[bool] = False,
        overlap: Templated[timedelta] = DEFAULT_OVERLAP,
        detail: Templated[bool] = False,
        nested_columns: Templated[Mapping[str, NestedPath]] | None = None,
        drop_columns: Templated[Sequence[str]] = (),
        mask: Templated[Mapping[str, str]] | None = None,
        mask_conn_id: Templated[str] | None = None,
        transform: Callable[[pd.DataFrame], pd.DataFrame] | str | None = None,
        part_rows: Templated[int] = DEFAULT_STAGED_ROWS,
        max_columns: Templated[int] = DEFAULT_MAX_COLUMNS,
        **kwargs: Unpack[OperatorArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.resource = resource
        self.sql_conn_id = sql_conn_id
        self.table = table
        self.mode = mode
        self.primary_key = primary_key
        self.time_column = time_column
        self.child_tables = child_tables
        self.on_missing = on_missing
        self.max_missing = max_missing
        self.staging = staging
        self.load = load
        self.new_columns = new_columns
        self.type_changes = type_changes
        self.required_columns = required_columns
        self.checks = checks
        self.dry_run = dry_run
        self.partition_column = partition_column
        self.max_partitions = max_partitions
        self.limio_conn_id = limio_conn_id
        self.path_params = path_params
        self.query_params = query_params
        self.page_size = page_size
        self.since = since
        self.incremental = incremental
        self.full_refresh = full_refresh
        self.overlap = overlap
        self.detail = detail
        self.nested_columns = nested_columns
        self.drop_columns = drop_columns
        self.mask = mask
        self.mask_conn_id = mask_conn_id
        self.transform = not_rendered("transform", transform)
        self.part_rows = part_rows
        self.max_columns = max_columns
