# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""LimitRailReconcileUsageOperator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from airflow.sdk import BaseOperator

from limio_limitrail.airflow_errors import fail_fast_on_permanent_errors
from limio_limitrail.api.errors import ParameterError
from limio_limitrail.concurrency import MAX_CONCURRENCY
from limio_limitrail.links.pages import LimitRailConsoleLink
from limio_limitrail.observability.lineage import LineageMixin
from limio_limitrail.parameters import readers, references, times
from limio_limitrail.parameters.declared import Parameter, ReadsParameters, template_fields
from limio_limitrail.usage.conventions import OPERATIONS, ResponseMapping, response_mapping
from limio_limitrail.usage.reconciliation import parameters as reconciliation

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook
    from airflow.sdk import Context

    from limio_limitrail.api.resource import Resource
    from limio_limitrail.hooks.limitrail import LimitRailHook
    from limio_limitrail.hooks.usage_reconciliation import UsageReconciliation
    from limio_limitrail.parameters.declared import Templated
    from limio_limitrail.parameters.operator_arguments import OperatorArguments
    from limio_limitrail.usage.reconciliation.summary import UsageReconciliationSummary

DEFAULT_MARGIN = timedelta(minutes=5)
DEFAULT_MAX_SENT = 100

_OPTIONAL_LIMIT = readers.optional(readers.rows_or_percent)


class LimitRailReconcileUsageOperator(ReadsParameters, LineageMixin, BaseOperator):
    """Compare the API's own list with the ledger, for a time range; and settle what is certain.

    The list is read first, then the ledger. What belongs together is decided by ``match``, and what must be equal by
    ``compare``: numbers by value, times as instants, texts exactly. The differences go into a table, and the totals by operation
    and day into another; a repeated run replaces its own rows in both. Then the thresholds are checked.

    Nothing is guessed: a row with two candidates, or one that the list cannot tell about, stays as it is.

    All parameters are templates, and may be XComArgs. Thresholds are a whole number of rows, a text such as ``"1%"``, or None for
    any number. The XCom is a `limio_limitrail.usage.UsageReconciliationSummary`.

    :param sql_conn_id: the database of the ledger; both tables are written there.
    :param match: by what a record of the list finds its row: the record's member → ``idempotency_key``, ``trace_id``,
        ``reservation_id``, a key column, or ``kept.<member>`` for what ``kept_members=`` of the commit operator has kept. Nested
        members are named with dots. All of them together must identify one row.
    :param compare: what must be equal in both, likewise.
    :param amount: what holds the amount on both sides, as one of ``compare``: the totals then have sums. Exact decimals; a sum is
        null where an amount is not known, and one that is no number is listed as ``not_compared``.
    :param mask_conn_id: the connection whose password keys the hashes of ``kept_members``, as the commit operator names it.
    :param since: rows and records from this time on are compared. Default: the start of the data interval.
    :param until: rows and records before this time are compared. Default: the end of the data interval.
    :param time_of: what the ledger holds of a row's time in the list, such as a key column or ``kept.usageTime``. Default: the
        time at which the row was sent.
    :param margin: how far the times of a row and its record may lie apart: the list is read that much further on both sides.
    :param limitrail_conn_id: the LimitRail connection.
    :param resource: the list: a name of the table of resources, or a `Resource` of your own.
    :param operation: the operation whose rows of the ledger are compared.
    :param ledger_table: the ledger table.
    :param differences_table: the table of differences; created if it does not exist.
    :param totals_table: the table of totals by operation and day, likewise.
    :param settle: settle uncertain rows. One that has exactly one record becomes ``committed`` or ``denied``, as the record says.
        One without a record becomes ``free`` if ``listed_after`` is given and the list proves that it is whole.
    :param listed_after: after which time the list certainly shows what was carried out. Rows that were sent later need not be
        there yet. Default: not known; missing rows then count at once, and none becomes free.
    :param retention: for how long the list certainly keeps a record. Default: not known; a row then becomes free only if the list
        shows a record that is older.
    :param max_sent: how many rows may become free in one run; with more, none does.
    :param max_different: how many rows may differ.
    :param max_only_ours: how many rows that were carried out may be missing in the list.
    :param max_only_theirs: how many records may be missing in the ledger.
    :param max_twice_there: how many rows may have several records.
    :param max_unexpected_there: how many rows may be in the list although the ledger says that they were not carried out.
    :param max_not_compared: how many rows may lack a value, or share all values with others.
    :param max_uncertain: how many rows may be uncertain, after those that were settled.
    :param warn_different: how many rows may differ before the task counts as degraded, which is green, with warnings in its
        summary, metrics and asset events; None: any number.
    :param warn_only_ours: how many rows that were carried out may be missing in the list, likewise.
    :param warn_only_theirs: how many records may be missing in the ledger, likewise.
    :param warn_twice_there: how many rows may have several records, likewise.
    :param warn_unexpected_there: how many rows may be in the list although they were not carried out, likewise.
    :param warn_not_compared: how many rows may lack a value, or share all values with others, likewise.
    :param warn_uncertain: how many rows may still be uncertain, likewise.
    :param warn_no_rows: whether the task is degraded if neither side has anything in the range.
    :param response: where records hold a decision and a reservation, and what decisions mean: a `ResponseMapping`, or a mapping
        with its members. Default: the connection's ``response``. A record without a decision was carried out.
    :param scope: OAuth scopes to ask for besides the connection's.
    :param path_params: values for the placeholders of the resource's path.
    :param query_params: further query parameters. What they leave out is missing in the comparison.
    :param page_size: records to ask for a page; else the connection's.
    :param slice_size: the longest time range of one request.
    :param concurrency: how many of these slices are fetched at once, at most 16.
    """

    parameters: ClassVar[Mapping[str, Parameter]] = {
        "sql_conn_id": Parameter(readers.text("the id of a connection")),
        "match": Parameter(reconciliation.match),
        "compare": Parameter(reconciliation.fields),
        "amount": Parameter(reconciliation.amount),
        "mask_conn_id": Parameter(readers.optional(readers.text("the id of a connection"))),
        "since": Parameter(readers.optional(times.instant)),
        "until": Parameter(readers.optional(times.instant)),
        "time_of": Parameter(readers.optional(reconciliation.field)),
        "margin": Parameter(times.span()),
        "limitrail_conn_id": Parameter(readers.text("the id of a connection")),
        "resource": Parameter(references.resource),
        "operation": Parameter(readers.choice(*(name for name, operation in OPERATIONS.items() if operation.changes))),
        "ledger_table": Parameter(readers.text("the name of a table")),
        "differences_table": Parameter(readers.text("the name of a table")),
        "totals_table": Parameter(readers.text("the name of a table")),
        "settle": Parameter(readers.switch),
        "listed_after": Parameter(readers.optional(times.span())),
        "retention": Parameter(readers.optional(times.span())),
        "max_sent": Parameter(readers.rows_or_percent),
        "max_different": Parameter(_OPTIONAL_LIMIT),
        "max_only_ours": Parameter(_OPTIONAL_LIMIT),
        "max_only_theirs": Parameter(_OPTIONAL_LIMIT),
        "max_twice_there": Parameter(_OPTIONAL_LIMIT),
        "max_unexpected_there": Parameter(_OPTIONAL_LIMIT),
        "max_not_compared": Parameter(_OPTIONAL_LIMIT),
        "max_uncertain": Parameter(_OPTIONAL_LIMIT),
        "warn_different": Parameter(_OPTIONAL_LIMIT),
        "warn_only_ours": Parameter(_OPTIONAL_LIMIT),
        "warn_only_theirs": Parameter(_OPTIONAL_LIMIT),
        "warn_twice_there": Parameter(_OPTIONAL_LIMIT),
        "warn_unexpected_there": Parameter(_OPTIONAL_LIMIT),
        "warn_not_compared": Parameter(_OPTIONAL_LIMIT),
        "warn_uncertain": Parameter(_OPTIONAL_LIMIT),
        "warn_no_rows": Parameter(readers.switch),
        "response": Parameter(readers.optional(response_mapping)),
        "scope": Parameter(readers.scopes),
        "path_params": Parameter(readers.param_values),
        "query_params": Parameter(readers.param_values),
        "page_size": Parameter(readers.optional(readers.whole_number(least=1))),
        "slice_size": Parameter(readers.optional(times.span(least=timedelta(seconds=1)))),
        "concurrency": Parameter(readers.whole_number(least=1, most=MAX_CONCURRENCY)),
    }
    template_fields: Sequence[str] = template_fields(parameters)
    operator_extra_links = (LimitRailConsoleLink(),)
    ui_color = "#f3ead9"

    def __init__(
        self,
        *,
        sql_conn_id: Templated[str],
        match: Templated[Mapping[str, str]],
        compare: Templated[Mapping[str, str]] | None = None,
        amount: Templated[Mapping[str, str]] | None = None,
        mask_conn_id: Templated[str] | None = None,
        since: Templated[datetime] | None = None,
        until: Templated[datetime] | None = None,
        time_of: Templated[str] | None = None,
        margin: Templated[timedelta] = DEFAULT_MARGIN,
        limitrail_conn_id: Templated[str] = "limitrail_default",
        resource: Templated[str | Resource] = "usage",
        operation: Templated[str] = "commit",
        ledger_table: Templated[str] = "limitrail_usage_ledger",
        differences_table: Templated[str] = "limitrail_usage_differences",
        totals_table: Templated[str] = "limitrail_usage_totals",
        settle: Templated[bool] = False,
        listed_after: Templated[timedelta] | None = None,
        retention: Templated[timedelta] | None = None,
        max_sent: Templated[int | str] = DEFAULT_MAX_SENT,
        max_different: Templated[int | str] | None = 0,
        max_only_ours: Templated[int | str] | None = 0,
        max_only_theirs: Templated[int | str] | None = 0,
        max_twice_there: Templated[int | str] | None = 0,
        max_unexpected_there: Templated[int | str] | None = 0,
        max_not_compared: Templated[int | str] | None = 0,
        max_uncertain: Templated[int | str] | None = 0,
        warn_different: Templated[int | str] | None = None,
        warn_only_ours: Templated[int | str] | None = None,
        warn_only_theirs: Templated[int | str] | None = None,
        warn_twice_there: Templated[int | str] | None = None,
        warn_unexpected_there: Templated[int | str] | None = None,
        warn_not_compared: Templated[int | str] | None = None,
        warn_uncertain: Templated[int | str] | None = None,
        warn_no_rows: Templated[bool] = False,
        response: Templated[ResponseMapping | Mapping[str, Any]] | None = None,
        scope: Templated[Sequence[str]] | None = None,
        path_params: Templated[Mapping[str, Any]] | None = None,
        query_params: Templated[Mapping[str, Any]] | None = None,
        page_size: Templated[int] | None = None,
        slice_size: Templated[timedelta] | None = None,
        concurrency: Templated[int] = 1,
        **kwargs: Unpack[OperatorArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.sql_conn_id: str = sql_conn_id
        self.match: Any = match
        self.compare: Any = compare
        self.amount: Any = amount
        self.mask_conn_id: str | None = mask_conn_id
        self.since: datetime | None = since
        self.until: datetime | None = until
        self.time_of: Any = time_of
        self.margin: timedelta = margin
        self.limitrail_conn_id: str = limitrail_conn_id
        self.resource: str | Resource = resource
        self.operation: str = operation
        self.ledger_table: str = ledger_table
        self.differences_table: str = differences_table
        self.totals_table: str = totals_table
        self.settle: bool = settle
        self.listed_after: timedelta | None = listed_after
        self.retention: timedelta | None = retention
        self.max_sent: int | str = max_sent
        self.max_different: int | str | None = max_different
        self.max_only_ours: int | str | None = max_only_ours
        self.max_only_theirs: int | str | None = max_only_theirs
        self.max_twice_there: int | str | None = max_twice_there
        self.max_unexpected_there: int | str | None = max_unexpected_there
        self.max_not_compared: int | str | None = max_not_compared
        self.max_uncertain: int | str | None = max_uncertain
        self.warn_different: int | str | None = warn_different
        self.warn_only_ours: int | str | None = warn_only_ours
        self.warn_only_theirs: int | str | None = warn_only_theirs
        self.warn_twice_there: int | str | None = warn_twice_there
        self.warn_unexpected_there: int | str | None = warn_unexpected_there
        self.warn_not_compared: int | str | None = warn_not_compared
        self.warn_uncertain: int | str | None = warn_uncertain
        self.warn_no_rows: bool = warn_no_rows
        self.response: Any = response
        self.scope: Any = scope
        self.path_params: Mapping[str, Any] | None = path_params
        self.query_params: Mapping[str, Any] | None = query_params
        self.page_size: int | None = page_size
        self.slice_size: timedelta | None = slice_size
        self.concurrency: int = concurrency

    @cached_property
    def hook(self) -> LimitRailHook:
        """The hook of the LimitRail connection."""
        from limio_limitrail.hooks.limitrail import LimitRailHook

        return LimitRailHook(self.limitrail_conn_id, scope=self.scope)

    def page_url(self) -> str:
        """Return the URL of the page that shows the list."""
        name = self.resource if isinstance(self.resource, str) else self.resource.name
        return self.hook.page_url(name, resource=name)

    def execute(self, context: Context) -> UsageReconciliationSummary:
        """Compare, write the tables, settle if asked, and return a small summary.

        :raises AirflowFailException: credentials, scope or parameters are wrong, or there are more differences than allowed.
        :raises ApiError: the API failed in a way that a retry may get past.
        :raises LandingError: the database failed, likewise; a retry settles what is left.
        """
        with fail_fast_on_permanent_errors():
            return self._execute(context)

    def _execute(self, context: Context) -> UsageReconciliationSummary:
        from limio_limitrail.assets.outlet_events import add_to_outlet_events
        from limio_limitrail.hooks.usage_ledger import open_ledger
        from limio_limitrail.observability.metrics import log_group, send_metrics
        from limio_limitrail.usage.degraded import log_warnings
        from limio_limitrail.usage.ledger.model import Worker
        from limio_limitrail.usage.reconciliation.summary import DIFFERENCES, THRESHOLDS, find_failure, log_summary
        from limio_limitrail.usage.reconciliation.warnings import WARNINGS, add_warnings

        self.read_parameters()
        wanted = self._wanted(context)
        worker = Worker.of(context["ti"])
        task = (worker.dag_id, worker.task_id, worker.map_index)
        with open_ledger(self.sql_conn_id, ledger_table=self.ledger_table) as settlements:
            self._note_lineage(settlements.database.hook)
            reconciliation = wanted.begin(hook=self.hook, settlements=settlements)
            tables = wanted.tables(
                settlements, differences_table=self.differences_table, totals_table=self.totals_table, task=task
            )
            name = reconciliation.wanted.operation
            with log_group(f"reconcile {name}", operation=name):
                summary = reconciliation.run(
                    tables=tables,
                    settles=self.settle,
                    by=f"task {worker.dag_id}.{worker.task_id} in run {worker.run_id}",
                    settlement_id=f"{worker.dag_id}/{worker.task_id}/{worker.run_id}/{worker.map_index}",
                )
        failure = find_failure(summary, thresholds={name: getattr(self, name) for name in THRESHOLDS})
        add_warnings(summary, limits={name: getattr(self, name) for name in WARNINGS}, failed=failure is not None)
        log_summary(summary)
        log_warnings(summary["warnings"], operation="reconcile", status=summary["status"], with_reasons_logged=DIFFERENCES)
        send_metrics(summary, api=self.hook.conn_type, what="reconcile")
        # A failed task has no return value, and the numbers are what a person will look for.
        context["ti"].xcom_push(key="return_value", value=summary)
        context["ti"].xcom_push(key="differences_query", value=summary["differences_query"])
        if failure is not None:
            raise failure
        add_to_outlet_events(context, outlets=self.outlets, summary=summary)
        return summary

    def _wanted(self, context: Context) -> UsageReconciliation:
        from limio_limitrail.hooks.time_range import RunTimes
        from limio_limitrail.hooks.usage_reconciliation import UsageReconciliation

        run = RunTimes.of(context)
        since, until = self.since or run.own_start, self.until or run.own_end
        if since is None or until is None:
            lacking = " and ".join(name for name, one in (("since=", since), ("until=", until)) if one is None)
            raise ParameterError(f"this run has no data interval to take its time range from: give {lacking}")
        given = {field.name: getattr(self, field.name) for field in fields(UsageReconciliation)}
        return UsageReconciliation(**{**given, "since": since, "until": until})

    def _note_lineage(self, sql_hook: DbApiHook) -> None:
        from limio_limitrail.observability.lineage import TaskLineage, list_dataset, table_dataset

        def lineage() -> TaskLineage:
            name = self.resource if isinstance(self.resource, str) else self.resource.name
            source = list_dataset(scheme="limitrail", base_url=self.hook.base_url, resource=name)
            tables = (self.differences_table, self.totals_table)
            return TaskLineage(source=source, targets=tuple(table_dataset(sql_hook, table=table) for table in tables))

        self.collect_lineage(lineage)
