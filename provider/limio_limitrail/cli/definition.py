# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The commands and their arguments, as Airflow's own are declared."""

from __future__ import annotations

from typing import Any

from airflow.cli.cli_config import (
    ARG_OUTPUT,
    ARG_VERBOSE,
    ARG_YES,
    ActionCommand,
    Arg,
    CLICommand,
    GroupCommand,
    lazy_load_command,
)

_arg: Any = Arg

_CONN_ID = _arg(("--conn-id",), help="The SQL connection of the ledger", required=True)
_LEDGER_TABLE = _arg(("--ledger-table",), help="The ledger table (default: %(default)s)", default="limitrail_usage_ledger")
_CHANGES_TABLE = _arg(
    ("--changes-table",), help="The table that lists changed rows (default: %(default)s)", default="limitrail_usage_changes"
)
_LEDGER = (_CONN_ID, _LEDGER_TABLE, _CHANGES_TABLE, ARG_OUTPUT, ARG_VERBOSE)

_OPERATION = _arg(("--operation",), help="Only rows of this operation, such as commit")
_DAG_ID = _arg(("--dag-id",), help="Only rows that a task of this Dag wrote last")
_TASK_ID = _arg(("--task-id",), help="Only rows that this task wrote last")
_RUN_ID = _arg(("--run-id",), help="Only rows that this Dag run wrote last")
_STATE = _arg(
    ("--state",),
    help="Only rows in this state: parked, unknown, sending, rejected, changed, damaged or free; or several, with commas",
)
_OLDER_THAN = _arg(("--older-than",), help="Only rows that have been so for this long: 90, 1:00:00, PT1H or P2D")
_FILTER = (_STATE, _OPERATION, _DAG_ID, _TASK_ID, _RUN_ID, _OLDER_THAN)

_LIMIT = _arg(("--limit",), help="How many rows to list at most, the oldest first (default: %(default)s)", default="100")
_KEYS = _arg(("key",), help="The rows' idempotency keys", nargs="*", default=[])
_DECISION = _arg(
    ("--decision",),
    help=(
        "committed: the API has carried it out. denied: the API has decided against it. "
        "send: it has certainly not been carried out, and the next task that has it sends it. "
        "give_up: it is never sent. accept: a changed row was corrected in the API. leave: it stays as it is."
    ),
)
_VERSION = _arg(("--version",), help="Settle the one row only if it still has this version, as list shows it")
_FROM_FILE = _arg(
    ("--from-file",),
    help="A JSON file with rows as list -o json writes them, each with a decision; - for the standard input",
)
_NOTE = _arg(("--note",), help="Why; the ledger keeps it")
_BY = _arg(("--by",), help="Who has decided; the ledger keeps it (default: the user of this machine)")


def get_commands() -> list[CLICommand]:
    """Return the commands (``cli`` in the provider's metadata)."""
    ledger = GroupCommand(
        name="ledger",
        help="Look at the ledger of usage, and settle rows that need a person",
        subcommands=(
            ActionCommand(
                name="status",
                help="Count the rows by operation and state",
                func=lazy_load_command("limio_limitrail.cli.ledger.status"),
                args=(*_LEDGER, _OPERATION, _DAG_ID, _TASK_ID, _RUN_ID),
            ),
            ActionCommand(
                name="list",
                help="List the rows that need a person, the oldest first",
                func=lazy_load_command("limio_limitrail.cli.ledger.list_rows"),
                args=(*_LEDGER, *_FILTER, _LIMIT),
            ),
            ActionCommand(
                name="settle",
                help="Write down what became of rows, or what is to become of them",
                description=(
                    "Settle rows by their keys, those that a filter finds, or those of a file. Nothing is sent. "
                    "A row that has changed since it was looked at stays as it is."
                ),
                func=lazy_load_command("limio_limitrail.cli.ledger.settle_rows"),
                args=(*_LEDGER, _KEYS, *_FILTER, _DECISION, _VERSION, _FROM_FILE, _NOTE, _BY, ARG_YES),
            ),
        ),
    )
    return [GroupCommand(name="limitrail", help="LimitRail: usage that was committed", subcommands=(ledger,))]
