# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Run a command as Airflow runs its own; what goes wrong ends it with a message."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

from limio_limitrail.hooks.usage_ledger import open_ledger

if TYPE_CHECKING:
    from argparse import Namespace
    from contextlib import AbstractContextManager

    from limio_limitrail.usage.ledger.settlement import Settlements

_DUCKDB_WAIT = 10.0
"""Seconds to wait until another process closes a DuckDB file: somebody is waiting."""


def command(function: Callable[[Namespace], None]) -> Callable[[Namespace], None]:
    """Run a function with Airflow's settings, in its audit log, and without logs in the output."""
    from airflow.utils import cli, providers_configuration_loader

    @wraps(function)
    def run(args: Namespace) -> None:
        # As Airflow's own commands do: connections are read from the metadata database, too.
        os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"
        with _ending_with_a_message():
            function(args)

    loaded: Any = providers_configuration_loader.providers_configuration_loaded
    recorded: Any = cli.action_cli
    silent: Any = cli.suppress_logs_and_warning
    found: Callable[[Namespace], None] = silent(loaded(recorded(check_db=False)(run)))
    return found


@contextmanager
def _ending_with_a_message() -> Iterator[None]:
    from airflow.sdk.exceptions import AirflowException

    from limio_limitrail.troubleshooting import ExplainedError

    try:
        yield
    except (ExplainedError, AirflowException) as error:
        raise SystemExit(str(error)) from None


def ledger_of(args: Namespace, *, read_only: bool = False) -> AbstractContextManager[Settlements]:
    """Open the ledger that the arguments name."""
    return open_ledger(
        args.conn_id,
        ledger_table=args.ledger_table,
        changes_table=args.changes_table,
        read_only=read_only,
        duckdb_wait=_DUCKDB_WAIT,
    )


def decided_by(args: Namespace) -> str:
    """Return who has decided: as given, else the user of this machine."""
    if args.by:
        return str(args.by)
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return f"user {os.getuid()}"
