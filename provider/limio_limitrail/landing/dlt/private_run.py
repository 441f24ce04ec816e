# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Run dlt with explicit settings: it reads no environment, no file, no vault and no Airflow variable, and reports to nobody."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dlt.common.configuration.container import Container
from dlt.common.configuration.providers import ConfigProvider
from dlt.common.configuration.providers.dictionary import DictionaryProvider
from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext
from dlt.common.configuration.specs.runtime_configuration import RuntimeConfiguration
from dlt.common.runtime.init import initialize_runtime
from dlt.common.runtime.run_context import RunContext

_SETTINGS: Mapping[str, Any] = {
    "providers": {"enable_airflow_secrets": False, "enable_google_secrets": False, "enable_aws_secrets": False},
    "schema": {"naming": "limio_limitrail.landing.dlt.naming"},
    # A job that fails is not tried again here, because it may have been carried out: Airflow's retry begins with an empty stage.
    "load": {"raise_on_max_retries": 1, "workers": 4, "truncate_staging_dataset": False},
    "normalize": {"workers": 1},
    "data_writer": {"disable_compression": True},
    "restore_from_destination": False,
    "enable_runtime_trace": False,
}

_LOGGER = "dlt.limio_limitrail"
"""Which logger is dlt's: it sets the level, and keeps all that is logged below it from Airflow's log."""


class _PrivateContext(RunContext):
    """The folders and settings of one run."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self._folder = str(folder)
        self._global_dir = str(folder)
        self._runtime_config = RuntimeConfiguration(dlthub_telemetry=False, log_level="CRITICAL")

    @property
    def name(self) -> str:
        return "limio_limitrail"

    @property
    def run_dir(self) -> str:
        return self._folder

    @property
    def local_dir(self) -> str:
        return self._folder

    @property
    def data_dir(self) -> str:
        return self._folder

    def initial_providers(self) -> list[ConfigProvider]:
        provider = DictionaryProvider()
        provider._config_doc = dict(_SETTINGS)  # noqa: SLF001 - its own way to set values is a context manager
        return [provider]

    def initialize_runtime(self, runtime_config: RuntimeConfiguration | None = None) -> None:  # noqa: ARG002 - as dlt calls it
        initialize_runtime(_LOGGER, self._runtime_config)

    def reset_config(self) -> None:
        """Do nothing: the settings stay."""


@contextmanager
def private_run(folder: Path) -> Iterator[None]:
    """Let dlt run with these settings and no others.

    :param folder: the working folder of the run, which is emptied first, because a killed try may have left it, and removed in
        the end: it has customers' data.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    context = PluggableRunContext(_PrivateContext(folder))
    try:
        with Container().injectable_context(context):
            yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
