# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""LimitRailCommitUsageOperator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator

from limio_limitrail.airflow_errors import fail_fast_on_permanent_errors
from limio_limitrail.links.pages import LedgerQueryLink, LimitRailConsoleLink
from limio_limitrail.observability.lineage import LineageMixin
from limio_limitrail.parameters import readers, references, times
from limio_limitrail.parameters.declared import Parameter, ReadsParameters, template_fields
from limio_limitrail.usage import parameters as usage_choices
from limio_limitrail.usage.operations import OPERATIONS
from limio_limitrail.usage.parameters import ON_UNKNOWN, REPLAYS
from limio_limitrail.usage.response_mapping import ResponseMapping, response_mapping

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook
    from airflow.sdk import Context, ObjectStoragePath

    from limio_limitrail.hooks.limitrail import LimitRailHook
    from limio_limitrail.landing.sql.persistent_connection import PersistentConnection
    from limio_limitrail.parameters.declared import Templated
    from limio_limitrail.usage.committer import UsageCommitter
    from limio_limitrail.usage.ledger.ledger import Ledger
    from limio_limitrail.usage.ledger.model import Worker
    from limio_limitrail.usage.ledger.previews import Previews
    from limio_limitrail.usage.ledger.rules import Policy
    from limio_limitrail.usage.messages import UsageTemplate
    from limio_limitrail.usage.operations import Operation
    from limio_limitrail.usage.rows import Source
    from limio_limitrail.usage.summary import Thresholds

DUCKDB_WAIT = 60.0
"""Seconds to wait for another process to let go of a DuckDB file; this task then keeps it to its end."""


class LimitRailCommitUsageOperator(ReadsParameters, LineageMixin, BaseOperator):
    """Commit usage rows to LimitRail, each once.

    Every row gets an idempotency key, made of the connection's tenant, the operation and the row's key columns: the same in every
    retry, re-run and backfill. A ledger table keeps what is about to be sent before it is sent, and what came of it. A row that
    the ledger knows to be done is not sent again, whatever ran before and whatever runs beside this task.

    All rows are read and checked before the first one is sent.

    All parameters are templates, and may be XComArgs. They are read and checked when the task runs, before anything else.

    :param key: the columns that identify a row: a list, or the name of one.
    :param body: the request's JSON as a mapping, nested as the API wants it: `Column`, `Json` and `Text` (from
        ``limio_limitrail.usage.body``) stand for values of the row, everything else for itself. Texts may be templates.
    :param sql_conn_id: the database of the ledger: DuckDB, Postgres, SQLite, or another database of standard SQL.
    :param sql: a query that gives the rows, run in that database. One of ``sql``, ``parts`` and ``rows`` must be given.
    :param parts: the folder of a finished pull, whose records are the rows.
    :param rows: the rows themselves: a list of mappings, or the XCom that holds one.
    :param limitrail_conn_id: the LimitRail connection.
    :param mode: ``commit``; ``preview``, which changes nothing and writes decisions and fees into ``preview_table``; ``reserve``;
        ``commit_reservation`` or ``cancel_reservation``, which put the row's column ``reservation_id`` into the path.
    :param path: the endpoint's path, with columns in braces; else the connection's ``paths``, else what is documented or assumed.
    :param scope: OAuth scopes to ask for besides the connection's and the one that the operation needs.
    :param ledger_table: the ledger; made where it is not there.
    :param preview_table: where previews go; a row's newest preview replaces the one before.
    :param idempotency_header: the header that takes the idempotency key.
    :param idempotency_field: a member of the body that takes it instead, with dots between nested names.
    :param on_unknown: what to do with a row that may have been carried out without an answer: ``park`` leaves it to a person;
        ``resend`` sends it again under its key, which is right only if the API honours idempotency keys.
    :param resend_within: for how long after its first request ``resend`` may send such a row again: a timedelta, seconds, or a
        text such as ``PT20H``. Less than the API remembers keys; an older one is parked.
    :param key_namespace: a text that goes into the idempotency keys, too: it tells rows apart that have the same key columns and
        are different things, such as two meters.
    :param on_rekeyed: what to do with rows that the ledger holds under other keys, because a key column changed its type or the
        connection its client: ``fail`` sends nothing and fails; ``settle`` counts them as done by what stands there; ``send``
        sends them as rows of their own.
    :param replay: ``rejected`` or ``parked``: send the rows in that state again, once a Dag run.
    :param concurrency: the most requests at once, up to 64.
    :param batch_size: the most rows that are claimed, or whose outcomes are written, in one transaction.
    :param max_rejected: how many rows may be rejected: a number, or a share below 1. With more, the task fails in the end.
    :param max_parked: how many may be parked, likewise.
    :param max_duplicates: how many rows may repeat others exactly, likewise; with more, the task fails before anything is sent.
        None: any number. Rows that do so are sent once in any case.
    :param max_rejected_before: how many may have been rejected in earlier Dag runs, likewise; None: any number.
    :param max_changed: how many rows may come with another body than the one that was carried out, likewise. They are not sent.
    :param changes_table: where such rows are listed; made when there are some.
    :param changes_hold: ``members`` lists the names of the members that differ; ``bodies`` the new bodies, too.
    :param max_in_doubt: how many rows of the operation may stand in doubt in the ledger that are not among the task's rows. With
        more, the task fails in the end; None: any number.
    :param decision_field: the member of an answer that holds the decision, with dots between nested names; None: an answer needs
        no decision to count as carried out, and is a JSON object all the same.
    :param reservation_field: the member that holds a reservation's id, likewise.
    :param decisions: what further decisions mean: decision → ``committed`` or ``denied``.
    :param response: what further answers mean: a `ResponseMapping` (``limio_limitrail.usage.response_mapping``), or a mapping
        with its members.
    """

    parameters: ClassVar[Mapping[str, Parameter]] = {
        "key": Parameter(readers.names("columns", least=1)),
        "sql_conn_id": Parameter(readers.text("the id of a connection")),
        "body": Parameter(readers.optional(readers.mapping)),
        "sql": Parameter(readers.optional(readers.text("a query"))),
        "parts": Parameter(readers.optional(references.folder)),
        "rows": Parameter(readers.optional(usage_choices.rows)),
        "limitrail_conn_id": Parameter(readers.text("the id of a connection")),
        "mode": Parameter(readers.choice(*OPERATIONS)),
        "path": Parameter(readers.optional(readers.text("a path"))),
        "scope": Parameter(readers.scopes),
        "ledger_table": Parameter(readers.text("the name of a table")),
        "preview_table": Parameter(readers.text("the name of a table")),
        "idempotency_header": Parameter(usage_choices.header),
        "idempotency_field": Parameter(readers.optional(readers.text("the name of a member"))),
        "on_unknown": Parameter(readers.choice(*ON_UNKNOWN)),
        "resend_within": Parameter(times.span()),
        "key_namespace": Parameter(readers.optional(readers.text("a text"))),
        "on_rekeyed": Parameter(readers.choice(*usage_choices.ON_REKEYED)),
        "replay": Parameter(readers.optional(readers.choice(*REPLAYS))),
        "concurrency": Parameter(readers.whole_number(least=1, most=usage_choices.MOST_CONCURRENCY)),
        "batch_size": Parameter(readers.whole_number(least=1, most=usage_choices.MOST_IN_A_BATCH)),
        "max_rejected": Parameter(usage_choices.number_or_share),
        "max_parked": Parameter(usage_choices.number_or_share),
        "max_duplicates": Parameter(readers.optional(usage_choices.number_or_share)),
        "max_rejected_before": Parameter(readers.optional(usage_choices.number_or_share)),
        "max_in_doubt": Parameter(readers.optional(readers.whole_number(least=0))),
        "max_changed": Parameter(usage_choices.number_or_share),
        "changes_table": Parameter(readers.text("the name of a table")),
        "changes_hold": Parameter(readers.choice(*usage_choices.CHANGES_HOLD)),
        "decision_field": Parameter(readers.optional(readers.text("the name of a member"))),
        "reservation_field": Parameter(readers.text("the name of a member")),
        "decisions": Parameter(usage_choices.decisions),
        "response": Parameter(response_mapping),
    }
    template_fields: Sequence[str] = template_fields(parameters)
    template_ext: Sequence[str] = (".sql",)
    template_fields_renderers = {"sql": "sql", "body": "py"}  # noqa: RUF012 - as Airflow declares it
    operator_extra_links = (LedgerQueryLink(), LimitRailConsoleLink())
    ui_color = "#f3ead9"

    def __init__(
        self,
        *,
        key: Templated[Sequence[str]],
        sql_conn_id: Templated[str],
        body: Templated[Mapping[str, Any]] | None = None,
        sql: Templated[str] | None = None,
        parts: Templated[str | ObjectStoragePath] | None = None,
        rows: Any = None,
        limitrail_conn_id: Templated[str] = "limitrail_default",
        mode: Templated[str] = "commit",
        path: Templated[str] | None = None,
        scope: Templated[Sequence[str]] | None = None,
        ledger_table: Templated[str] = "limitrail_usage_ledger",
        preview_table: Templated[str] = "limitrail_usage_preview",
        idempotency_header: Templated[str] = "Idempotency-Key",
        idempotency_field: Templated[str] | None = None,
        on_unknown: Templated[str] = "park",
        resend_within: Templated[timedelta] = timedelta(hours=20),
        key_namespace: Templated[str] | None = None,
        on_rekeyed: Templated[str] = "fail",
        replay: Templated[str] | None = None,
        concurrency: Templated[int] = 8,
        batch_size: Templated[int] = 500,
        max_rejected: Templated[float] = 0,
        max_parked: Templated[float] = 0,
        max_duplicates: Templated[float] | None = None,
        max_rejected_before: Templated[float] | None = None,
        max_in_doubt: Templated[int] | None = None,
        max_changed: Templated[float] = 0,
        changes_table: Templated[str] = "limitrail_usage_changes",
        changes_hold: Templated[str] = "members",
        decision_field: Templated[str] | None = "decision",
        reservation_field: Templated[str] = "reservationId",
        decisions: Templated[Mapping[str, str]] | None = None,
        response: Templated[ResponseMapping] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.key: Sequence[str] = key
        self.sql_conn_id: str = sql_conn_id
        self.body: Mapping[str, Any] | None = body
        self.sql: str | None = sql
        self.parts: str | ObjectStoragePath | None = parts
        self.rows = rows
        self.limitrail_conn_id: str = limitrail_conn_id
        self.mode: str = mode
        self.path: str | None = path
        self.scope: Sequence[str] | None = scope
        self.ledger_table: str = ledger_table
        self.preview_table: str = preview_table
        self.idempotency_header: str = idempotency_header
        self.idempotency_field: str | None = idempotency_field
        self.on_unknown: str = on_unknown
        self.resend_within: timedelta = resend_within
        self.key_namespace: str | None = key_namespace
        self.on_rekeyed: str = on_rekeyed
        self.replay: str | None = replay
        self.concurrency: int = concurrency
        self.batch_size: int = batch_size
        self.max_rejected: float = max_rejected
        self.max_parked: float = max_parked
        self.max_duplicates: float | None = max_duplicates
        self.max_rejected_before: float | None = max_rejected_before
        self.max_in_doubt: int | None = max_in_doubt
        self.max_changed: float = max_changed
        self.changes_table: str = changes_table
        self.changes_hold: str = changes_hold
        self.decision_field: str | None = decision_field
        self.reservation_field: str = reservation_field
        self.decisions: Mapping[str, str] | None = decisions
        self.response: ResponseMapping | Mapping[str, Any] | None = response
        self._batch: UsageCommitter | None = None
        self._killed = False
        self._query: str | None = None

    @cached_property
    def hook(self) -> LimitRailHook:
        """The hook of the LimitRail connection, with the scope that the operation needs."""
        from limio_limitrail.hooks.limitrail import LimitRailHook

        further = (self.scope,) if isinstance(self.scope, str) else tuple(self.scope or ())
        return LimitRailHook(self.limitrail_conn_id, scope=[self._operation.scope, *further])

    @property
    def _operation(self) -> Operation:
        from limio_limitrail.usage.operations import find_operation

        return find_operation(self.mode)

    def page_url(self) -> str:
        """Give the URL of LimitRail's console."""
        return self.hook.page_url(self._operation.name)

    def ledger_url(self, ti: Any) -> str | None:
        """Give the URL that shows the ledger's rows of this task: the connection's page, else Airflow's with the query."""
        from limio_limitrail.usage.ledger_query import xcom_page

        if self._query is None:
            return None
        return self.hook.own_page_url("ledger", query=self._query, run_id=ti.run_id) or xcom_page(ti)

    def on_kill(self) -> None:
        """Send no more; what has an answer is still written down."""
        self._killed = True
        if self._batch is not None:
            self._batch.stop()

    def execute(self, context: Context) -> dict[str, Any]:
        """Send what has not been sent, and give a small summary.

        :raises AirflowFailException: credentials, scope, parameters or rows are wrong, or too many rows were rejected or parked.
        :raises UsageUnknownError: whether some rows have been carried out is not known, and another try sends them again.
        :raises ApiError: the API failed in a way that a retry may get past.
        :raises StoppedError: the task was told to stop.
        """
        from airflow.sdk.exceptions import AirflowFailException

        from limio_limitrail.landing.sql.model import LandingError
        from limio_limitrail.landing.sql.queries import WrongQueryError
        from limio_limitrail.usage.ledger.model import LedgerError
        from limio_limitrail.usage.ledger.rekeyed_rows import RekeyedRowsError
        from limio_limitrail.usage.repeated_refusals import RepeatedRefusalError
        from limio_limitrail.usage.row_buffer import ClashError
        from limio_limitrail.usage.summary import UsageFailedError

        with fail_fast_on_permanent_errors():
            try:
                return self._execute(context)
            except (
                ClashError, LedgerError, RekeyedRowsError, RepeatedRefusalError, UsageFailedError, WrongQueryError,
            ) as error:  # fmt: skip
                raise AirflowFailException(str(error)) from error
            except LandingError as error:
                raise LandingError(f"the ledger's database {self.sql_conn_id!r}: {error}") from error

    def _execute(self, context: Context) -> dict[str, Any]:
        from limio_limitrail.assets.outlet_events import add_to_outlet_events
        from limio_limitrail.observability.metrics import log_group, send_metrics
        from limio_limitrail.usage.committer import UsageCommitter
        from limio_limitrail.usage.known_rows import check_same_rows, list_changes
        from limio_limitrail.usage.ledger_query import QUERY_KEY, ledger_query
        from limio_limitrail.usage.parameters import asked_at, one_of, read_policy
        from limio_limitrail.usage.row_buffer import RowBuffer
        from limio_limitrail.usage.rows import fill_row_buffer
        from limio_limitrail.usage.summary import judge, summarize, tell, tell_left

        self.read_parameters()
        one_of(sql=self.sql, parts=self.parts, rows=self.rows)
        operation = self._operation
        allowed = self._thresholds()
        policy = read_policy(
            on_unknown=self.on_unknown,
            replay=self.replay,
            changes=operation.changes,
            resend_within=self.resend_within,
            asked_at=asked_at(context.get("dag_run")),
        )
        template = self._template(operation)
        sender = self._sender(operation, policy=policy)
        measured = self.hook.client.measure()
        with self._held() as database, RowBuffer() as row_buffer:
            book = self._book(database, context=context, operation=operation)
            book.prepare()
            self._query = ledger_query(table=book.table, worker=self._worker(context))
            self._note_usage(database.hook, operation=operation, table=book.table)
            with log_group("read rows", operation=operation.name), self._source(database.hook) as source:
                fill_row_buffer(row_buffer, source=source, template=template, duplicates=allowed.duplicates)
            self.log.info(
                "%s: %s rows, %s of them repeat others.", operation.name, f"{row_buffer.total:,}", f"{row_buffer.duplicates:,}"
            )
            rekeyed = check_same_rows(book, row_buffer=row_buffer, worker=book.worker, on_rekeyed=self.on_rekeyed)
            left = book.left_in_doubt(row_buffer.among)
            tell_left(left, operation=operation.name, table=book.table)
            if row_buffer.total:
                # A scope that is missing shows here, before anything is claimed.
                self.hook.client.auth.credential()
            self._batch = UsageCommitter(
                ledger=book,
                policy=policy,
                sender=sender,
                concurrency=self.concurrency,
                batch_size=self.batch_size,
                label=operation.name,
                allowed=allowed.rejected.rows(of=row_buffer.total - row_buffer.duplicates),
            )
            if self._killed:
                self._batch.stop()
            try:
                with log_group(f"send {operation.name}", operation=operation.name, rows=row_buffer.total - row_buffer.duplicates):
                    self._batch.run(row_buffer.rows(), total=row_buffer.total - row_buffer.duplicates)
                if allowed.in_doubt is not None and left.count > allowed.in_doubt:
                    # Somebody may have settled some of them meanwhile.
                    left = book.left_in_doubt(row_buffer.among)
            finally:
                tally = self._batch.tally
                unlisted = (
                    None
                    if self._killed
                    else list_changes(
                        book,
                        row_buffer=row_buffer,
                        tally=tally,
                        table=self.changes_table,
                        with_bodies=self.changes_hold == "bodies",
                        batch_size=self.batch_size,
                    )
                )
                summary = {
                    **summarize(tally, operation=operation.name, table=book.table, duplicates=row_buffer.duplicates, left=left),
                    "rekeyed": rekeyed,
                    **measured(),
                }
                tell(tally, summary=summary)
                send_metrics(summary, api=self.hook.conn_type, what=operation.name)
                self.update_lineage(rows=summary.get("committed"))
                # A task that fails leaves no return value, and the numbers are what a person will look for.
                context["ti"].xcom_push(key="return_value", value=summary)
                context["ti"].xcom_push(key=QUERY_KEY, value=self._query)
        failure = judge(
            tally, table=book.table, operation=operation.name, allowed=allowed, left=left, changes_table=self.changes_table
        )
        if (error := failure or unlisted) is not None:
            raise error
        add_to_outlet_events(context, outlets=self.outlets, summary=summary)
        return summary

    def _note_usage(self, hook: DbApiHook, *, operation: Operation, table: str) -> None:
        """Note for OpenLineage where usage goes."""
        from limio_limitrail.observability.lineage import TaskLineage, list_dataset, table_dataset

        def lineage() -> TaskLineage:
            usage = list_dataset(scheme="limitrail", base_url=self.hook.base_url, resource="usage")
            ledger = table_dataset(hook, table=table)
            return TaskLineage(source=None, targets=(usage, ledger) if operation.changes else (ledger,))

        self.collect_lineage(lineage)

    def _thresholds(self) -> Thresholds:
        from limio_limitrail.usage.parameters import ErrorBudget
        from limio_limitrail.usage.summary import Thresholds

        before, duplicates = self.max_rejected_before, self.max_duplicates
        return Thresholds(
            rejected=ErrorBudget(name="max_rejected", most=self.max_rejected),
            parked=ErrorBudget(name="max_parked", most=self.max_parked),
            rejected_before=None if before is None else ErrorBudget(name="max_rejected_before", most=before),
            changed=ErrorBudget(name="max_changed", most=self.max_changed),
            in_doubt=self.max_in_doubt,
            duplicates=None if duplicates is None else ErrorBudget(name="max_duplicates", most=duplicates),
        )

    # -- what is asked for -----------------------------------------------------------------------------------------

    def _template(self, operation: Operation) -> UsageTemplate:
        from limio_limitrail.api.errors import ParameterError
        from limio_limitrail.usage.messages import UsageTemplate

        if self.body is None and (operation.decides or self.idempotency_field):
            raise ParameterError(f"mode={self.mode!r} needs a body: a mapping from the request's members to columns and values")
        return UsageTemplate(
            tenant=self.hook.tenant,
            operation=operation.name,
            path=self.path or self.hook.path_for(operation.name, default=operation.path),
            key=tuple(self.key),
            body=self.body,
            key_field=self.idempotency_field,
            namespace=self.key_namespace,
        )

    def _sender(self, operation: Operation, *, policy: Policy) -> Any:
        from limio_limitrail.api.async_client import AsyncApiClient
        from limio_limitrail.api.async_transport import AsyncTransport
        from limio_limitrail.usage.ledger.model import State
        from limio_limitrail.usage.messages import DECISIONS, AnswerReading
        from limio_limitrail.usage.sender import REST, UsageSender

        client = self.hook.client
        response = response_mapping("response", self.response)
        return UsageSender(
            client=AsyncApiClient(client, transport=AsyncTransport(client.transport, connections=self.concurrency, rest=REST)),
            operation=operation,
            reading=AnswerReading(
                decision_field=self.decision_field,
                reservation_field=self.reservation_field,
                decisions={**DECISIONS, **{decision: State(meaning) for decision, meaning in (self.decisions or {}).items()}},
                required=operation.decides,
                committed_statuses=frozenset(response.committed_statuses),
            ),
            key_header=None if self.idempotency_field else self.idempotency_header,
            on_unknown=policy.on_unknown,
            resend_within=policy.resend_within,
            response=response_mapping("response", self.response) if operation.changes else ResponseMapping(),
            keep_answers=self.mode == "preview",
        )

    # -- rows and ledger -------------------------------------------------------------------------------------------

    @contextmanager
    def _held(self) -> Iterator[PersistentConnection]:
        from limio_limitrail.hooks.databases import find_database
        from limio_limitrail.landing.sql.persistent_connection import PersistentConnection

        with closing(PersistentConnection(find_database(self.sql_conn_id), duckdb_wait=DUCKDB_WAIT)) as database:
            yield database

    def _book(self, database: PersistentConnection, *, context: Context, operation: Operation) -> Ledger | Previews:
        from limio_limitrail.usage.ledger.ledger import Ledger
        from limio_limitrail.usage.ledger.previews import Previews

        worker = self._worker(context)
        if self.mode == "preview":
            return Previews(database=database, table=self.preview_table, worker=worker)
        return Ledger(
            database=database,
            table=self.ledger_table,
            worker=worker,
            operation=operation.name,
            conn_id=self.limitrail_conn_id,
            tenant=self.hook.settings.tenant,
            namespace=self.key_namespace,
        )

    def _worker(self, context: Context) -> Worker:
        from limio_limitrail.usage.ledger.model import Worker

        ti: Any = context["ti"]
        return Worker(
            dag_id=ti.dag_id,
            task_id=ti.task_id,
            run_id=ti.run_id,
            map_index=-1 if ti.map_index is None else ti.map_index,
            try_number=ti.try_number,
        )

    @contextmanager
    def _source(self, hook: DbApiHook) -> Iterator[Source]:
        from limio_limitrail.usage.parameters import one_of
        from limio_limitrail.usage.rows import rows_of_list, rows_of_parts, rows_of_query

        match one_of(sql=self.sql, parts=self.parts, rows=self.rows):
            case "sql":
                with rows_of_query(hook, str(self.sql)) as source:
                    yield source
            case "parts":
                yield rows_of_parts(str(self.parts))
            case _:
                yield rows_of_list(self.rows)
