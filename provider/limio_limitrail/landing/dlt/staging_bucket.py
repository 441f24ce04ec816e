# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The bucket through which files go into a warehouse: each run has a folder of its own there, which is removed in the end.

dlt would leave the files, which are customers' data, and empty a table's folder while another load copies from it.
"""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlt.common.destination import Destination

log = logging.getLogger("limio_limitrail.landing.dlt")


def folder_of_run(staging: Destination[Any, Any], *, stage: str) -> Destination[Any, Any]:
    """Return the same bucket, with the folder of a run.

    :param stage: the name of the run's stage.
    """
    own = copy.copy(staging)
    url = str(staging.config_params["bucket_url"]).rstrip("/")
    own.config_params = {**staging.config_params, "bucket_url": f"{url}/{stage}"}
    return own


def remove_folder(staging: Destination[Any, Any], *, dataset: str) -> None:
    """Remove the folder of a run, as `folder_of_run` returns it."""
    import dlt

    try:
        config = staging.spec()._bind_dataset_name(dataset_name=dataset)  # noqa: SLF001 - as dlt's pipelines do
        config.as_staging_destination = True
        client: Any = staging.client(dlt.Schema("staging"), config)
        client.fs_client.invalidate_cache()
        if client.fs_client.exists(client.bucket_path):
            client.fs_client.rm(client.bucket_path, recursive=True)
    except Exception as error:  # noqa: BLE001 - the rows are in the table
        log.warning(
            "The staged files of this run below %s could not be removed (%s): remove them.",
            staging.config_params["bucket_url"],
            type(error).__name__,
        )
