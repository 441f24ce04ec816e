# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""LimioToDltOperator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from limio_limitrail.parameters.declared import Parameter, not_rendered, template_fields
from limio_limitrail.transfers.base import DEFAULT_MAX_COLUMNS, DEFAULT_OVERLAP, DEFAULT_PART_ROWS
from limio_limitrail.transfers.missing import DEFAULT_MAX_MISSING
from limio_limitrail.transfers.sources import LimioPullOperator
from limio_limitrail.transfers.to_dlt import ResourceToDltOperator

if TYPE_CHECKING:
    import pandas as pd
    from airflow.sdk import ObjectStoragePath
    from dlt.common.destination import Destination

    from limio_limitrail.api.resource import Resource
    from limio_limitrail.landing.nested_paths import NestedPath
    from limio_limitrail.parameters.declared import Templated
    from limio_limitrail.parameters.operator_arguments import OperatorArguments


class LimioToDltOperator(LimioPullOperator, ResourceToDltOperator):
    """Pull a Limio resource into a table of a warehouse, by one of dlt's destinations.

    The parameters are described with `LimioPullOperator`, `ResourceToDltOperator`, `ResourceToTableOperator` and
    `ResourcePullOperator`.
    """

    parameters: ClassVar[Mapping[str, Parameter]] = {**ResourceToDltOperator.parameters, **LimioPullOperator.parameters}
    template_fields: Sequence[str] = template_fields(parameters)

    def __init__(
        self,
        *,
        resource: Templated[str | Resource],
        destination: str | Callable[[], Destination[Any, Any]],
        dataset: Templated[str],
        table: Templated[str],
        destination_conn_id: Templated[str] | None = None,
        destination_staging: Templated[str] | None = None,
        bucket_url: Templated[str] | None = None,
        table_format: Templated[str] = "parquet",
        catalog_conn_id: Templated[str] | None = None,
        mode: Templated[str] = "merge",
        primary_key: Templated[Sequence[str]] | None = None,
        time_column: Templated[str] | None = None,
        max_missing: Templated[int | str] = DEFAULT_MAX_MISSING,
        staging: Templated[str | ObjectStoragePath] | None = None,
        new_columns: Templated[str] = "add",
        type_changes: Templated[str] = "widen",
        required_columns: Templated[Sequence[str]] = (),
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
        part_rows: Templated[int] = DEFAULT_PART_ROWS,
        max_columns: Templated[int] = DEFAULT_MAX_COLUMNS,
        **kwargs: Unpack[OperatorArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.resource = resource
        self.destination = not_rendered("destination", destination)
        self.dataset = dataset
        self.table = table
        self.destination_conn_id = destination_conn_id
        self.destination_staging = destination_staging
        self.bucket_url = bucket_url
        self.table_format = table_format
        self.catalog_conn_id = catalog_conn_id
        self.mode = mode
        self.primary_key = primary_key
        self.time_column = time_column
        self.max_missing = max_missing
        self.staging = staging
        self.new_columns = new_columns
        self.type_changes = type_changes
        self.required_columns = required_columns
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
