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

_LIMIT = _arg(("--limit",), help="How many rows to list at most (default: %(default)s)", default="100")
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


_START = _arg(("--start",), help="Rows and records from this time on are compared; without a zone, in UTC", required=True)
_END = _arg(("--end",), help="Rows and records before this time are compared", required=True)
_MATCH = _arg(
    ("--match",),
    help=(
        "By what a record finds its row: MEMBER=FIELD, the record's member and idempotency_key, trace_id, reservation_id, "
        "a key column or kept.<member>; once for each"
    ),
    action="append",
    required=True,
)
_COMPARE = _arg(("--compare",), help="What must be equal in both, likewise", action="append", default=[])
_AMOUNT = _arg(
    ("--amount",), help="What holds the amount in both, likewise: the totals then have sums", action="append", default=[]
)
_MASK_CONN_ID = _arg(("--mask-conn-id",), help="The connection whose password keys the hashes that the ledger keeps")
_TIME_OF = _arg(("--time-of",), help="What the ledger holds of a row's time in the list (default: the time it was sent)")
_MARGIN = _arg(("--margin",), help="How far the times of a row and its record may differ (default: %(default)s)", default="PT5M")
_LIMITRAIL_CONN_ID = _arg(
    ("--limitrail-conn-id",), help="The LimitRail connection (default: %(default)s)", default="limitrail_default"
)
_RESOURCE = _arg(
    ("--resource",), help="The list: its name, or the import path of a Resource (default: %(default)s)", default="usage"
)
_RECONCILED_OPERATION = _arg(
    ("--operation",), help="The operation whose rows are compared (default: %(default)s)", default="usage.commit"
)
_SCOPE = _arg(("--scope",), help="OAuth scopes to ask for besides the connection's, separated by spaces")
_PATH_PARAM = _arg(("--path-param",), help="NAME=VALUE for a placeholder of the list's path", action="append", default=[])
_QUERY_PARAM = _arg(("--query-param",), help="NAME=VALUE of a further query parameter", action="append", default=[])
_PAGE_SIZE = _arg(("--page-size",), help="Records to ask for a page (default: the connection's)")
_SLICE_SIZE = _arg(("--slice-size",), help="The longest time range of one request")
_CONCURRENCY = _arg(("--concurrency",), help="How many slices are fetched at once (default: %(default)s)", default="1")
_LIST = (*(_LIMITRAIL_CONN_ID, _RESOURCE, _SCOPE), *(_PATH_PARAM, _QUERY_PARAM, _PAGE_SIZE, _SLICE_SIZE, _CONCURRENCY))

_SETTLE = _arg(("--settle",), help="Settle the uncertain rows that are certain now", action="store_true")
_LISTED_AFTER = _arg(
    ("--listed-after",),
    help="After which time the list certainly shows what was carried out, such as PT6H; without it no row becomes free",
)
_RETENTION = _arg(("--retention",), help="For how long the list certainly keeps a record, such as P90D")
_MAX_SENT = _arg(("--max-sent",), help="How many rows may become free in one run (default: %(default)s)", default="100")
_ALLOWED = tuple(
    _arg((f"--max-{kind}",), help=f"How many rows may {what}: a number, 1%%, or any (default: %(default)s)", default="0")
    for kind, what in {
        "different": "differ",
        "only-ours": "be missing in the list",
        "only-theirs": "be missing in the ledger",
        "twice-there": "have several records",
        "unexpected-there": "be in the list although they were not carried out",
        "not-compared": "lack a value, or share all values with others",
        "uncertain": "be uncertain, after settling",
    }.items()
)
_DIFFERENCES_TABLE = _arg(("--differences-table",), help="Write the differences into this table")
_TOTALS_TABLE = _arg(("--totals-table",), help="Write the totals by operation and day into this table")
_LIST_DIFFERENCES = _arg(("--list",), help="List the differences instead of their numbers", action="store_true")


def get_commands() -> list[CLICommand]:
    """Return the commands (``cli`` in the provider's metadata)."""
    ledger = GroupCommand(
        name="ledger",
        help="Look at the ledger of usage, settle rows that need a person, and compare it with the API's own list",
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
            ActionCommand(
                name="reconcile",
                help="Compare the API's own list with the ledger, and settle what is certain",
                description=(
                    "Compare the API's own list with the ledger, for a time range. Exits with 3 if they differ in more rows than "
                    "allowed. With --settle, uncertain rows that are certain now are settled."
                ),
                func=lazy_load_command("limio_limitrail.cli.reconcile.reconcile"),
                args=(
                    *(*_LEDGER, _START, _END, _MATCH, _COMPARE, _AMOUNT, _MASK_CONN_ID, _TIME_OF, _MARGIN, _RECONCILED_OPERATION),
                    *(*_LIST, _SETTLE, _LISTED_AFTER, _RETENTION, _MAX_SENT, _BY, ARG_YES),
                    *(*_ALLOWED, _DIFFERENCES_TABLE, _TOTALS_TABLE, _LIST_DIFFERENCES, _LIMIT),
                ),
            ),
        ),
    )
    return [GroupCommand(name="limitrail", help="LimitRail: usage that was committed", subcommands=(ledger,))]
