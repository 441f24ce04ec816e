# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""LimioToObjectStorageOperator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from limio_limitrail.parameters.declared import Parameter, not_rendered, template_fields
from limio_limitrail.transfers.base import DEFAULT_MAX_COLUMNS, DEFAULT_OVERLAP, DEFAULT_PART_ROWS
from limio_limitrail.transfers.missing import DEFAULT_MAX_MISSING
from limio_limitrail.transfers.sources import LimioPullOperator
from limio_limitrail.transfers.to_object_storage import ResourceToObjectStorageOperator

if TYPE_CHECKING:
    import pandas as pd
    from airflow.sdk import ObjectStoragePath

    from limio_limitrail.api.resource import Resource
    from limio_limitrail.landing.nested_paths import NestedPath
    from limio_limitrail.parameters.declared import Templated
    from limio_limitrail.parameters.operator_arguments import OperatorArguments


class LimioToObjectStorageOperator(LimioPullOperator, ResourceToObjectStorageOperator):
    """Pull a Limio resource into part files that stay.

    The parameters are described with `LimioPullOperator`, `ResourceToObjectStorageOperator` and `ResourcePullOperator`.
    """

    parameters: ClassVar[Mapping[str, Parameter]] = {**ResourceToObjectStorageOperator.parameters, **LimioPullOperator.parameters}
    template_fields: Sequence[str] = template_fields(parameters)

    def __init__(
        self,
        *,
        resource: Templated[str | Resource],
        destination: Templated[str | ObjectStoragePath],
        format: Templated[str] = "jsonl",  # noqa: A002
        max_missing: Templated[int | str] = DEFAULT_MAX_MISSING,
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
        transform: Callable[[pd.DataFrame], pd.DataFrame] | str | None = None,
        part_rows: Templated[int] = DEFAULT_PART_ROWS,
        max_columns: Templated[int] = DEFAULT_MAX_COLUMNS,
        **kwargs: Unpack[OperatorArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.resource = resource
        self.destination = destination
        self.format = format
        self.max_missing = max_missing
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
        self.transform = not_rendered("transform", transform)
        self.part_rows = part_rows
        self.max_columns = max_columns
