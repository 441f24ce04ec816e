# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a `LimitRailCommitUsageOperator` does when it runs: read the rows, send them, report."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from limio_limitrail.hooks.databases import find_ledger_database
from limio_limitrail.hooks.masking_secret import read_masking_secret
from limio_limitrail.landing.sql.persistent_connection import PersistentConnection
from limio_limitrail.observability.metrics import log_group, send_metrics
from limio_limitrail.usage import commit_warnings
from limio_limitrail.usage import parameters as usage
from limio_limitrail.usage import summary as usage_summary
from limio_limitrail.usage.commit_warnings import UsageQueries
from limio_limitrail.usage.conventions import Idempotency, Operation, ResponseMapping, find_operation, require_body
from limio_limitrail.usage.dry_run import forecast_commit, log_forecast
from limio_limitrail.usage.hash_keys import hash_key
from limio_limitrail.usage.ledger.ledger import Ledger
from limio_limitrail.usage.ledger.model import Worker
from limio_limitrail.usage.ledger.previews import Previews
from limio_limitrail.usage.ledger.run_history import RunHistory
from limio_limitrail.usage.ledger.states import Keep
from limio_limitrail.usage.messages import UsageTemplate
from limio_limitrail.usage.reconciliation.parameters import check_kept
from limio_limitrail.usage.row_buffer import RowBuffer
from limio_limitrail.usage.rows import check_same_rows, fill_row_buffer, list_changes, open_source

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from airflow.sdk import Context

    from limio_limitrail.operators.limitrail import LimitRailCommitUsageOperator
    from limio_limitrail.usage.committer import UsageCommitter
    from limio_limitrail.usage.dry_run import UsageDryRunSummary
    from limio_limitrail.usage.ledger.other_rows import LeftInDoubt
    from limio_limitrail.usage.rows import Source
    from limio_limitrail.usage.sender import UsageSender
    from limio_limitrail.usage.summary import OutcomeCounts, UsageCommitSummary

DUCKDB_WAIT = 60.0
"""Seconds to wait until another process closes a DuckDB file; this task then keeps it open to its end."""


class UsageCommit:
    """One try of a task that commits usage.

    :param task: the task, whose parameters are read and checked.
    :raises ParameterError: its parameters do not fit each other.
    """

    def __init__(self, task: LimitRailCommitUsageOperator, context: Context) -> None:
        usage.one_of(sql=task.sql, parts_path=task.parts_path, rows=task.rows)
        self._task, self._context = task, context
        self._operation: Operation = find_operation(task.operation)
        self._keys: Idempotency = task.idempotency or task.hook.settings.idempotency or Idempotency()
        self._worker = Worker.of(context["ti"])
        self._policy = usage.read_policy(
            on_unknown=task.on_unknown,
            replay=task.replay,
            changes=self._operation.changes,
            resend_within=self._keys.resend_within,
            requested_at=usage.requested_at(context.get("dag_run")),
            limit=task.limit,
        )
        self._template = self._make_template()
        self._committer: UsageCommitter | None = None
        self._stopped = False
        self.query: str | None = None
        """The query that shows the task's rows; None as long as the ledger is not known to be one."""

    def stop(self) -> None:
        """Send no more; outcomes of requests that have an answer are still written. May be called by a signal's handler."""
        self._stopped = True
        if self._committer is not None:
            self._committer.stop()

    def forecast(self) -> UsageDryRunSummary:
        """Return what `run` would do. Nothing is sent or stored."""
        task = self._task
        # From here on its secrets are known, and masked.
        _ = task.hook.client
        group = log_group("look rows up", operation=self._operation.name)
        with self._open() as database, RowBuffer() as row_buffer, group:
            if task.sql is not None:
                # Waits for another process that has a DuckDB file open, as a run does; the source does not.
                with database.reading():
                    pass
            with self._open_source(database) as source:
                summary = forecast_commit(
                    self._make_ledger(database),
                    source=source,
                    row_buffer=row_buffer,
                    template=self._template,
                    operation=self._operation.name,
                    policy=self._policy,
                    on_rekeyed=task.on_rekeyed,
                    max_duplicates=task.max_duplicates,
                    mask_members=task.mask_members,
                )
        log_forecast(summary)
        return summary

    def run(self) -> UsageCommitSummary:
        """Read the rows, send what has not been sent, and report what came of it.

        :raises UsageFailedError: more rows failed than allowed.
        """
        sender = self._make_sender()
        measured = self._task.hook.client.measure()
        with self._open() as database, RowBuffer() as row_buffer:
            ledger = self._make_ledger(database)
            ledger.prepare()
            self.query = usage_summary.ledger_query(table=ledger.table, worker=self._worker)
            self._task.note_lineage(database.hook, table=ledger.table)
            self._read_rows(row_buffer, database=database)
            rekeyed = check_same_rows(ledger, row_buffer=row_buffer, worker=ledger.worker, on_rekeyed=self._task.on_rekeyed)
            left = ledger.left_in_doubt(row_buffer.among)
            usage_summary.log_left_in_doubt(left, operation=self._operation.name, table=ledger.table)
            if row_buffer.total:
                # Fails here if a scope is missing, before anything is claimed.
                self._task.hook.client.auth.credential()
            committer = self._make_committer(ledger, sender=sender, row_buffer=row_buffer)
            complete = False
            try:
                self._send(committer, row_buffer=row_buffer)
                if self._task.max_in_doubt is not None and left.count > self._task.max_in_doubt:
                    # Somebody may have settled some of them meanwhile.
                    left = ledger.left_in_doubt(row_buffer.among)
                complete = True
            finally:
                unlisted = None if self._stopped else self._list_changes(ledger, committer.counts, row_buffer=row_buffer)
                summary = usage_summary.summarize(
                    committer.counts,
                    operation=self._operation.name,
                    table=ledger.table,
                    duplicates=row_buffer.duplicates,
                    rekeyed=rekeyed,
                    left=left,
                    requests=measured(),
                )
                failure = self._find_failure(committer.counts, table=ledger.table, left=left) or unlisted
                failed = not complete or failure is not None
                self._report(summary, committer.counts, database=database, table=ledger.table, failed=failed)
        if failure is not None:
            raise failure
        return summary

    def _open(self) -> closing[PersistentConnection]:
        return closing(PersistentConnection(find_ledger_database(self._task.sql_conn_id), duckdb_wait=DUCKDB_WAIT))

    def _open_source(self, database: PersistentConnection) -> AbstractContextManager[Source]:
        task = self._task
        return open_source(database.hook, sql=task.sql, parts_path=task.parts_path, rows=task.rows)

    def _read_rows(self, row_buffer: RowBuffer, *, database: PersistentConnection) -> None:
        name = self._operation.name
        source_of_rows = self._open_source(database)
        with log_group("read rows", operation=name), source_of_rows as source:
            fill_row_buffer(row_buffer, source=source, template=self._template, max_duplicates=self._task.max_duplicates)
        self._task.log.info("%s: %s rows, %s of them duplicates.", name, f"{row_buffer.total:,}", f"{row_buffer.duplicates:,}")

    def _make_committer(self, ledger: Ledger | Previews, *, sender: UsageSender, row_buffer: RowBuffer) -> UsageCommitter:
        from limio_limitrail.usage.committer import UsageCommitter

        task = self._task
        total = row_buffer.total - row_buffer.duplicates
        tried = total if task.limit is None else min(total, task.limit)
        self._committer = UsageCommitter(
            ledger=ledger,
            policy=self._policy,
            sender=sender,
            concurrency=task.concurrency,
            batch_size=task.batch_size,
            label=self._operation.name,
            max_rejected=usage.ErrorBudget(name="max_rejected", most=task.max_rejected).rows(of=tried),
        )
        if self._stopped:
            self._committer.stop()
        return self._committer

    def _send(self, committer: UsageCommitter, *, row_buffer: RowBuffer) -> None:
        name, total = self._operation.name, row_buffer.total - row_buffer.duplicates
        with log_group(f"send {name}", operation=name, rows=total):
            committer.run(row_buffer.rows(), total=total)

    def _list_changes(self, ledger: Ledger | Previews, counts: OutcomeCounts, *, row_buffer: RowBuffer) -> Exception | None:
        return list_changes(
            ledger,
            row_buffer=row_buffer,
            counts=counts,
            table=self._task.changes_table,
            with_bodies=self._task.changes_hold == "bodies",
            batch_size=self._task.batch_size,
        )

    def _find_failure(self, counts: OutcomeCounts, *, table: str, left: LeftInDoubt) -> Exception | None:
        return usage_summary.check_thresholds(
            counts,
            table=table,
            operation=self._operation.name,
            thresholds={name: getattr(self._task, name) for name in usage_summary.THRESHOLDS},
            left=left,
            changes_table=self._task.changes_table,
        )

    def _report(
        self, summary: UsageCommitSummary, counts: OutcomeCounts, *, database: PersistentConnection, table: str, failed: bool
    ) -> None:
        """Add warnings to the summary; log it, count it in metrics, and push it, also if the task fails."""
        task = self._task
        commit_warnings.add_warnings(
            summary,
            counts=counts,
            limits={name: getattr(task, name) for name in commit_warnings.WARNINGS},
            queries=self._queries(table=table),
            failed=failed,
            history=self._history(database),
        )
        usage_summary.log_summary(counts, summary=summary)
        commit_warnings.log_warnings(summary)
        send_metrics(summary, api=task.hook.conn_type, what=self._operation.name)
        task.update_lineage(rows=summary["committed"])
        # A failed task has no return value, and the numbers are what a person will look for.
        self._context["ti"].xcom_push(key="return_value", value=summary)
        self._context["ti"].xcom_push(key="ledger_query", value=self.query)

    def _queries(self, *, table: str) -> UsageQueries:
        return UsageQueries(
            table=table,
            of_run=usage_summary.ledger_query(table=table, worker=self._worker),
            of_changes=usage_summary.ledger_query(table=self._task.changes_table, worker=self._worker).replace(
                "ORDER BY state, ", "ORDER BY "
            ),
            operation=self._operation.name if self._operation.changes else None,
        )

    def _history(self, database: PersistentConnection) -> RunHistory | None:
        """Return the runs to compare with; None if no warning asks for them, or this run is not like the others."""
        task = self._task
        by_share = isinstance(task.warn_fewer_rows, str) or isinstance(task.warn_slower, str)
        if not by_share or not usage.is_usual(self._context.get("dag_run"), replay=task.replay):
            return None
        about = (task.hook.tenant, task.key_namespace, task.ledger_table)
        return RunHistory(database, table=task.history_table, worker=self._worker, operation=self._operation.name, about=about)

    def _make_template(self) -> UsageTemplate:
        require_body(self._task.body, operation=self._operation, keys=self._keys)
        check_kept(self._task.kept_members, body=self._task.body)
        conn_id = self._task.mask_conn_id if Keep.HASH in self._task.kept_members.values() else None
        secret = None if conn_id is None else read_masking_secret(conn_id)
        return UsageTemplate(
            tenant=self._task.hook.tenant,
            operation=self._operation.name,
            path=self._task.path or self._task.hook.path_for(self._operation.name, default=self._operation.path),
            key_columns=tuple(self._task.key_columns),
            body=self._task.body,
            key_field=self._keys.field,
            namespace=self._task.key_namespace,
            kept_members=self._task.kept_members,
            hash_key=hash_key(self._task.hook.tenant, secret=secret),
        )

    def _make_sender(self) -> UsageSender:
        from limio_limitrail.api.async_transport import AsyncTransport
        from limio_limitrail.api.client import AsyncApiClient
        from limio_limitrail.usage.sender import REST, UsageSender

        client = self._task.hook.client
        return UsageSender(
            client=AsyncApiClient(
                client, transport=AsyncTransport(client.transport, connections=self._task.concurrency, rest=REST)
            ),
            operation=self._operation,
            key_header=None if self._keys.field else self._keys.header,
            on_unknown=self._policy.on_unknown,
            resend_within=self._policy.resend_within,
            response=self._task.response or self._task.hook.settings.response or ResponseMapping(),
            keep_answers=not self._operation.changes,
        )

    def _make_ledger(self, database: PersistentConnection) -> Ledger | Previews:
        if not self._operation.changes:
            return Previews(database=database, table=self._task.preview_table, worker=self._worker)
        return Ledger(
            database=database,
            table=self._task.ledger_table,
            worker=self._worker,
            operation=self._operation.name,
            conn_id=self._task.limitrail_conn_id,
            tenant=self._task.hook.settings.tenant,
            namespace=self._task.key_namespace,
            read_only=self._task.dry_run,
        )
