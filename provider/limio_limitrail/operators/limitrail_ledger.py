# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""LimitRailSettleUsageOperator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from airflow.sdk import BaseOperator

from limio_limitrail.airflow_errors import fail_fast_on_permanent_errors
from limio_limitrail.parameters import readers
from limio_limitrail.parameters.declared import Parameter, ReadsParameters, template_fields
from limio_limitrail.usage.decision_lists import Decisions, decisions
from limio_limitrail.usage.ledger.model import Worker
from limio_limitrail.usage.ledger.settlement import SettlementResult
from limio_limitrail.usage.settling import UsageSettlementSummary, conflict, settle, settlement_query, summarize

if TYPE_CHECKING:
    from airflow.sdk import Context

    from limio_limitrail.parameters.declared import Templated
    from limio_limitrail.parameters.operator_arguments import OperatorArguments


class LimitRailSettleUsageOperator(ReadsParameters, BaseOperator):
    """Carry out what was decided about usage rows that need a person: parked, unknown, rejected, changed.

    Nothing is sent: a row that is to be sent becomes free, and the next task that has it sends it. A decision about a row that is
    no longer what it was made upon is not carried out. All decisions are checked before the first one is carried out.

    All parameters are templates, and may be XComArgs. The XCom is a `limio_limitrail.usage.UsageSettlementSummary`.

    :param sql_conn_id: the database of the ledger.
    :param decisions: a list of mappings with ``key``, the row's idempotency key, and ``decision``: ``committed``, ``denied``,
        ``send``, ``give_up``, ``accept`` or ``leave``; and, if wanted, ``version``, which is the state that it was made upon,
        ``note``, and ``api`` with the ``decision``, ``reservation_id`` and ``trace_id`` that the API's own list shows. Or a
        mapping with such ``decisions`` and ``by``. Nothing, such as the XCom of a form that nobody has answered, settles nothing.
    :param ledger_table: the ledger table.
    :param changes_table: the table that lists changed rows.
    :param by: who has decided; the ledger keeps it. Default: what ``decisions`` say, else the Dag, its run and its task.
    """

    parameters: ClassVar[Mapping[str, Parameter]] = {
        "sql_conn_id": Parameter(readers.text("the id of a connection")),
        "decisions": Parameter(decisions),
        "ledger_table": Parameter(readers.text("the name of a table")),
        "changes_table": Parameter(readers.text("the name of a table")),
        "by": Parameter(readers.optional(readers.text("a name"))),
    }
    template_fields: Sequence[str] = template_fields(parameters)
    template_fields_renderers = {"decisions": "py"}  # noqa: RUF012 - as Airflow declares it
    ui_color = "#f3ead9"

    def __init__(
        self,
        *,
        sql_conn_id: Templated[str],
        decisions: Any,
        ledger_table: Templated[str] = "limitrail_usage_ledger",
        changes_table: Templated[str] = "limitrail_usage_changes",
        by: Templated[str] | None = None,
        **kwargs: Unpack[OperatorArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.sql_conn_id: str = sql_conn_id
        self.decisions = decisions
        self.ledger_table: str = ledger_table
        self.changes_table: str = changes_table
        self.by: str | None = by

    def execute(self, context: Context) -> UsageSettlementSummary:
        """Settle the rows, and return a small summary.

        :raises AirflowFailException: a parameter or a decision does not fit, and nothing was settled; or somebody else has
            settled some of the rows otherwise meanwhile.
        :raises LandingError: the database failed in a way that a retry may get past; a retry settles what is left.
        """
        with fail_fast_on_permanent_errors():
            return self._execute(context)

    def _execute(self, context: Context) -> UsageSettlementSummary:
        from limio_limitrail.hooks.usage_ledger import open_ledger
        from limio_limitrail.observability.metrics import log_group, send_metrics

        self.read_parameters()
        given: Decisions = self.decisions
        ti = context["ti"]
        worker = Worker.of(ti)
        run = f"{worker.dag_id}/{worker.task_id}/{worker.run_id}/{worker.map_index}"
        by = self.by or given.by or f"task {worker.dag_id}.{worker.task_id} in run {worker.run_id}"
        if given.rows:
            opened = open_ledger(self.sql_conn_id, ledger_table=self.ledger_table, changes_table=self.changes_table)
            with opened as settlements, log_group("settle usage", rows=len(given.rows)):
                summary = settle(settlements, given.rows, by=by, settlement_id=run)
        else:
            self.log.info("There are no decisions: all rows stay as they are.")
            summary = summarize(SettlementResult(), table=self.ledger_table, decisions=0, seconds=0.0)
        send_metrics(summary, api="limitrail", what="settle")
        # A failed task has no return value, and the numbers are what a person will look for.
        ti.xcom_push(key="return_value", value=summary)
        ti.xcom_push(key="ledger_query", value=settlement_query(table=self.ledger_table, by=by))
        if (error := conflict(summary)) is not None:
            raise error
        return summary
