# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""LimitRailCommitUsageOperator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Unpack
from urllib.parse import urlsplit

from airflow.sdk import BaseOperator

from limio_limitrail.airflow_errors import fail_fast_on_permanent_errors
from limio_limitrail.links.pages import LedgerQueryLink, LimitRailConsoleLink
from limio_limitrail.observability.lineage import LineageMixin
from limio_limitrail.parameters import readers, references
from limio_limitrail.parameters.declared import Parameter, ReadsParameters, template_fields
from limio_limitrail.usage import parameters as usage
from limio_limitrail.usage.conventions import (
    OPERATIONS,
    Idempotency,
    ResponseMapping,
    find_operation,
    idempotency,
    response_mapping,
)
from limio_limitrail.usage.reconciliation.parameters import kept_members

if TYPE_CHECKING:
    from datetime import timedelta

    from airflow.providers.common.sql.hooks.sql import DbApiHook
    from airflow.sdk import Context, ObjectStoragePath

    from limio_limitrail.hooks.limitrail import LimitRailHook
    from limio_limitrail.operators.usage_commit import UsageCommit
    from limio_limitrail.parameters.declared import Templated
    from limio_limitrail.parameters.operator_arguments import OperatorArguments
    from limio_limitrail.usage.dry_run import UsageDryRunSummary
    from limio_limitrail.usage.summary import UsageCommitSummary


class LimitRailCommitUsageOperator(ReadsParameters, LineageMixin, BaseOperator):
    """Commit usage rows to LimitRail, each once.

    Every row gets an idempotency key, made of the connection's tenant, the operation and the row's key columns: the same in every
    retry, re-run and backfill. A ledger table records each row before it is sent, and what came of it after. A row that the
    ledger records as done is not sent again, whatever ran before and whatever runs beside this task. All rows are read and
    checked before the first one is sent.

    All parameters are templates, and may be XComArgs; they are read and checked first of all when the task runs. Thresholds are a
    whole number of rows, or a text such as ``"1%"``. The XCom is a `limio_limitrail.usage.UsageCommitSummary`.

    :param key_columns: the columns that identify a row: a list, or the name of one.
    :param body: the request's JSON as a mapping, nested as the API wants it: `Column`, `Json` and `Text` (from
        ``limio_limitrail.usage``) stand for values of the row, everything else for itself. Texts may be templates.
    :param sql_conn_id: the database of the ledger: DuckDB, Postgres, SQLite, or another database of standard SQL.
    :param sql: a query that returns the rows, run in that database. Give exactly one of ``sql``, ``parts_path`` and ``rows``.
    :param parts_path: the folder of a finished pull, whose records are the rows.
    :param rows: the rows themselves: a list of mappings, or the XCom that holds one.
    :param limitrail_conn_id: the LimitRail connection.
    :param operation: ``commit``; ``preview``, which changes nothing and writes decisions and fees into ``preview_table``;
        ``reserve``; ``commit_reservation`` or ``cancel_reservation``, which put the column ``reservation_id`` into the path.
    :param path: the endpoint's path, with columns in braces. Default: the connection's ``paths``, else the documented one.
    :param scope: OAuth scopes to ask for besides the connection's and the one that the operation needs.
    :param ledger_table: the ledger table; created if it does not exist.
    :param preview_table: the table of previews; a row's newest preview replaces the one before.
    :param idempotency: how the API takes idempotency keys, and for how long it remembers them: an `Idempotency` (from
        ``limio_limitrail.usage``), or a mapping with its members. Default: the connection's ``idempotency``.
    :param on_unknown: what to do with a row that may have been carried out without a clear answer: ``park`` leaves it to a
        person; ``resend`` sends it again under its key, which is right only if the API honours idempotency keys.
    :param key_namespace: a text in the idempotency keys, for different things with the same key columns, such as two meters.
    :param on_rekeyed: what to do with rows that the ledger holds under other keys, because a key column or the connection has
        changed: ``fail`` sends nothing and fails; ``settle`` counts them as done; ``send`` sends them as rows of their own.
    :param replay: ``rejected`` or ``parked``: send the rows in that state again, once a Dag run.
    :param concurrency: the maximum number of requests at once, up to 64.
    :param batch_size: the maximum number of rows that are claimed, or whose outcomes are written, in one transaction.
    :param max_rejected: how many rows may be rejected. With more, the task fails in the end.
    :param max_parked: how many may be parked, likewise.
    :param max_duplicates: how many rows may repeat others exactly, before anything is sent; None: any number. Each is sent once.
    :param max_rejected_before: how many may have been rejected in earlier Dag runs; None: any number.
    :param max_changed: how many rows may come with another body than the one that was carried out. They are not sent.
    :param changes_table: the table that lists such rows; created when there are some.
    :param changes_hold: ``members`` lists the names of the members that differ; ``bodies`` the new bodies, too.
    :param kept_members: members of the body that the ledger keeps with the row, for a `LimitRailReconcileUsageOperator`: member →
        ``plain`` or ``hash``, nested ones with dots. A hash hides a value only from those who cannot try all values.
    :param mask_conn_id: the connection whose password keys these hashes: who does not know it can try no values. It may be of any
        type. Default: the tenant alone keys them.
    :param max_in_doubt: how many rows in doubt the ledger may hold besides the task's rows: a whole number; None: any number.
    :param warn_rejected: how many rows may be rejected before the task counts as degraded, which is green, with warnings in
        its summary, metrics and asset events; None: any number. The same holds for ``warn_parked``, ``warn_denied`` and
        ``warn_changed``.
    :param warn_parked: how many may be parked, likewise.
    :param warn_denied: how many rows this Dag run may see denied, likewise.
    :param warn_changed: how many may come with another body, likewise.
    :param warn_no_rows: whether the task is degraded if it has no rows at all.
    :param warn_fewer_rows: it is degraded with fewer rows than this number, or than such a share of the usual number as
        ``"50%"``. Usual is the median of the task's last whole runs.
    :param warn_slower: it is degraded if it takes longer than this timedelta or number of seconds, or than such a share of the
        usual time for as many rows as ``"300%"``.
    :param history_table: the table of the task's last runs, which make up what is usual; created if a share is given.
    :param response: where the API's responses hold a decision and what they mean: a `ResponseMapping` (from
        ``limio_limitrail.usage``), or a mapping with its members. Default: the connection's ``response``.
    :param limit: the maximum number of rows to send in a Dag run, all tries and mapped copies of the task together; None: any
        number. Rows that the ledger records as done cost nothing. The rest is left for a later run, and outlets get no event.
    :param dry_run: read, check and look up all rows, and return what a run would do with them, as a
        `limio_limitrail.usage.UsageDryRunSummary`. Nothing is sent, not even for a token, and nothing is stored.
    :param mask_members: members of the body that a dry run masks in the requests that it shows, nested ones with dots.
    """

    parameters: ClassVar[Mapping[str, Parameter]] = {
        "key_columns": Parameter(readers.names("columns", least=1)),
        "sql_conn_id": Parameter(readers.text("the id of a connection")),
        "body": Parameter(readers.optional(readers.mapping)),
        "sql": Parameter(readers.optional(readers.text("a query"))),
        "parts_path": Parameter(readers.optional(references.folder)),
        "rows": Parameter(readers.optional(usage.rows)),
        "limitrail_conn_id": Parameter(readers.text("the id of a connection")),
        "operation": Parameter(readers.choice(*OPERATIONS)),
        "path": Parameter(readers.optional(readers.text("a path"))),
        "scope": Parameter(readers.scopes),
        "ledger_table": Parameter(readers.text("the name of a table")),
        "preview_table": Parameter(readers.text("the name of a table")),
        "idempotency": Parameter(readers.optional(idempotency)),
        "on_unknown": Parameter(readers.choice(*usage.ON_UNKNOWN)),
        "key_namespace": Parameter(readers.optional(readers.text("a text"))),
        "on_rekeyed": Parameter(readers.choice(*usage.ON_REKEYED)),
        "replay": Parameter(readers.optional(readers.choice(*usage.REPLAYS))),
        "concurrency": Parameter(readers.whole_number(least=1, most=usage.MAX_CONCURRENCY)),
        "batch_size": Parameter(readers.whole_number(least=1, most=usage.MAX_BATCH_SIZE)),
        "max_rejected": Parameter(readers.rows_or_percent),
        "max_parked": Parameter(readers.rows_or_percent),
        "max_duplicates": Parameter(readers.optional(readers.rows_or_percent)),
        "max_rejected_before": Parameter(readers.optional(readers.rows_or_percent)),
        "kept_members": Parameter(kept_members),
        "mask_conn_id": Parameter(readers.optional(readers.text("the id of a connection"))),
        "max_in_doubt": Parameter(readers.optional(readers.whole_number(least=0))),
        "max_changed": Parameter(readers.rows_or_percent),
        "changes_table": Parameter(readers.text("the name of a table")),
        "changes_hold": Parameter(readers.choice(*usage.CHANGES_HOLD)),
        "warn_rejected": Parameter(readers.optional(readers.rows_or_percent)),
        "warn_parked": Parameter(readers.optional(readers.rows_or_percent)),
        "warn_denied": Parameter(readers.optional(readers.rows_or_percent)),
        "warn_changed": Parameter(readers.optional(readers.rows_or_percent)),
        "warn_no_rows": Parameter(readers.switch),
        "warn_fewer_rows": Parameter(readers.optional(readers.rows_or_percent)),
        "warn_slower": Parameter(readers.optional(usage.slower_than)),
        "history_table": Parameter(readers.text("the name of a table")),
        "response": Parameter(readers.optional(response_mapping)),
        "limit": Parameter(readers.optional(readers.whole_number(least=1))),
        "dry_run": Parameter(readers.switch),
        "mask_members": Parameter(readers.names("members")),
    }
    template_fields: Sequence[str] = template_fields(parameters)
    template_ext: Sequence[str] = (".sql",)
    template_fields_renderers = {"sql": "sql", "body": "py"}  # noqa: RUF012 - as Airflow declares it
    # It hides BaseOperator's method of this name, which nothing calls.
    dry_run: bool = False  # type: ignore[assignment]
    operator_extra_links = (LedgerQueryLink(), LimitRailConsoleLink())
    ui_color = "#f3ead9"

    def __init__(
        self,
        *,
        key_columns: Templated[Sequence[str]],
        sql_conn_id: Templated[str],
        body: Templated[Mapping[str, Any]] | None = None,
        sql: Templated[str] | None = None,
        parts_path: Templated[str | ObjectStoragePath] | None = None,
        rows: Any = None,
        limitrail_conn_id: Templated[str] = "limitrail_default",
        operation: Templated[str] = "commit",
        path: Templated[str] | None = None,
        scope: Templated[str | Sequence[str]] | None = None,
        ledger_table: Templated[str] = "limitrail_usage_ledger",
        preview_table: Templated[str] = "limitrail_usage_preview",
        idempotency: Templated[Idempotency | Mapping[str, Any]] | None = None,
        on_unknown: Templated[str] = "park",
        key_namespace: Templated[str] | None = None,
        on_rekeyed: Templated[str] = "fail",
        replay: Templated[str] | None = None,
        concurrency: Templated[int] = 8,
        batch_size: Templated[int] = 500,
        max_rejected: Templated[int | str] = 0,
        max_parked: Templated[int | str] = 0,
        max_duplicates: Templated[int | str] | None = None,
        max_rejected_before: Templated[int | str] | None = None,
        kept_members: Templated[Mapping[str, str]] | None = None,
        mask_conn_id: Templated[str] | None = None,
        max_in_doubt: Templated[int] | None = None,
        max_changed: Templated[int | str] = 0,
        changes_table: Templated[str] = "limitrail_usage_changes",
        changes_hold: Templated[str] = "members",
        warn_rejected: Templated[int | str] | None = None,
        warn_parked: Templated[int | str] | None = None,
        warn_denied: Templated[int | str] | None = None,
        warn_changed: Templated[int | str] | None = None,
        warn_no_rows: Templated[bool] = False,
        warn_fewer_rows: Templated[int | str] | None = None,
        warn_slower: Templated[timedelta | float | str] | None = None,
        history_table: Templated[str] = "limitrail_usage_runs",
        response: Templated[ResponseMapping | Mapping[str, Any]] | None = None,
        limit: Templated[int] | None = None,
        dry_run: Templated[bool] = False,
        mask_members: Templated[Sequence[str]] = (),
        **kwargs: Unpack[OperatorArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.key_columns: Sequence[str] = key_columns
        self.sql_conn_id: str = sql_conn_id
        self.body: Mapping[str, Any] | None = body
        self.sql: str | None = sql
        self.parts_path: str | ObjectStoragePath | None = parts_path
        self.rows = rows
        self.limitrail_conn_id: str = limitrail_conn_id
        self.operation: str = operation
        self.path: str | None = path
        self.scope: str | Sequence[str] | None = scope
        self.ledger_table: str = ledger_table
        self.preview_table: str = preview_table
        self.idempotency: Any = idempotency
        self.on_unknown: str = on_unknown
        self.key_namespace: str | None = key_namespace
        self.on_rekeyed: str = on_rekeyed
        self.replay: str | None = replay
        self.concurrency: int = concurrency
        self.batch_size: int = batch_size
        self.max_rejected: int | str = max_rejected
        self.max_parked: int | str = max_parked
        self.max_duplicates: int | str | None = max_duplicates
        self.max_rejected_before: int | str | None = max_rejected_before
        self.kept_members: Any = kept_members
        self.mask_conn_id: str | None = mask_conn_id
        self.max_in_doubt: int | None = max_in_doubt
        self.max_changed: int | str = max_changed
        self.changes_table: str = changes_table
        self.changes_hold: str = changes_hold
        self.warn_rejected: int | str | None = warn_rejected
        self.warn_parked: int | str | None = warn_parked
        self.warn_denied: int | str | None = warn_denied
        self.warn_changed: int | str | None = warn_changed
        self.warn_no_rows: bool = warn_no_rows
        self.warn_fewer_rows: int | str | None = warn_fewer_rows
        self.warn_slower: timedelta | float | str | None = warn_slower
        self.history_table: str = history_table
        self.response: Any = response
        self.limit: int | None = limit
        self.dry_run = dry_run
        self.mask_members: Sequence[str] = mask_members
        self._commit: UsageCommit | None = None
        self._killed = False

    @cached_property
    def hook(self) -> LimitRailHook:
        """The hook of the LimitRail connection, with the scope that the operation needs."""
        from limio_limitrail.hooks.limitrail import LimitRailHook

        further = (self.scope,) if isinstance(self.scope, str) else self.scope or ()
        return LimitRailHook(self.limitrail_conn_id, scope=[find_operation(self.operation).scope, *further])

    def page_url(self) -> str:
        """Return the URL of LimitRail's console."""
        return self.hook.page_url(find_operation(self.operation).name)

    def ledger_url(self, ti: Any) -> str | None:
        """Return the URL of the task's rows in the ledger: the connection's page, else the task's XComs, which hold the query."""
        if self._commit is None or self._commit.query is None:
            return None
        if page := self.hook.own_page_url("ledger", query=self._commit.query, run_id=ti.run_id):
            return page
        xcoms = urlsplit(str(ti.log_url))
        return xcoms._replace(path=f"{xcoms.path}/xcom", query="").geturl()

    def on_kill(self) -> None:
        """Stop sending; outcomes of requests that have an answer are still written."""
        self._killed = True
        if self._commit is not None:
            self._commit.stop()

    def execute(self, context: Context) -> UsageCommitSummary | UsageDryRunSummary:
        """Send what has not been sent, and return a small summary; in a dry run, what would be done.

        :raises AirflowFailException: credentials, scope, parameters or rows are wrong, or more rows failed than allowed.
        :raises UsageUnknownError: whether some rows have been carried out is not known; a retry sends them again.
        :raises ApiError: the API failed in a way that a retry may get past.
        :raises StoppedError: the task was told to stop.
        """
        from limio_limitrail.assets.outlet_events import add_to_outlet_events, suppress_outlet_events
        from limio_limitrail.hooks.usage_ledger import naming_ledger_database
        from limio_limitrail.operators.usage_commit import UsageCommit

        with fail_fast_on_permanent_errors(), naming_ledger_database(self.sql_conn_id):
            self.read_parameters()
            self._commit = UsageCommit(self, context)
            if self._killed:
                self._commit.stop()
            if self.dry_run:
                suppress_outlet_events(self)
                return self._commit.forecast()
            summary = self._commit.run()
            if summary["left_for_later"]:
                # What consumes an event would take the rows for whole.
                suppress_outlet_events(self)
            else:
                add_to_outlet_events(context, outlets=self.outlets, summary=summary)
            return summary

    def note_lineage(self, hook: DbApiHook, *, table: str) -> None:
        """Note where the task's rows go."""
        from limio_limitrail.observability.lineage import TaskLineage, list_dataset, table_dataset

        operation = find_operation(self.operation)

        def lineage() -> TaskLineage:
            usage_list = list_dataset(scheme="limitrail", base_url=self.hook.base_url, resource="usage")
            ledger = table_dataset(hook, table=table)
            return TaskLineage(source=None, targets=(usage_list, ledger) if operation.changes else (ledger,))

        self.collect_lineage(lineage)
