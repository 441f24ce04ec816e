# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""LimitRailApproveUsageOperator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from airflow.providers.standard.operators.hitl import HITLOperator

from limio_limitrail.airflow_errors import fail_fast_on_permanent_errors
from limio_limitrail.parameters import people, readers, times
from limio_limitrail.parameters.declared import Parameter, ReadsParameters, not_rendered, template_fields
from limio_limitrail.usage.approval_options import CARRY_OUT, KINDS, LEAVE_ALL

if TYPE_CHECKING:
    from airflow.sdk import Context

    from limio_limitrail.parameters.declared import Templated
    from limio_limitrail.parameters.operator_arguments import OperatorArguments
    from limio_limitrail.usage.approval import ShownForm, UsageApproval
    from limio_limitrail.usage.ledger.settlement import OpenRow

_FORM = "form"
"""The XCom with what was asked about."""


class LimitRailApproveUsageOperator(ReadsParameters, HITLOperator):  # type: ignore[misc]
    """Ask a person, in Airflow, what became of usage rows that are parked, unknown, rejected or changed.

    The task lists these rows in a form of Airflow's (*Required Actions*) and waits without a worker. Groups of rows with the same
    reason have a choice each, and so have some single rows. The XCom is a `limio_limitrail.usage.UsageApproval`: the
    ``decisions`` of a `LimitRailSettleUsageOperator`. The task itself changes nothing. Without such rows nobody is asked, and
    there are no decisions; nor are there any if nobody answers in time.

    :param sql_conn_id: the database of the ledger.
    :param ledger_table: the ledger table.
    :param changes_table: the table that lists changed rows.
    :param kinds: which rows: ``parked``, ``unknown``, ``sending`` (their worker is dead), ``rejected``, ``changed``, ``damaged``.
    :param ledger_operation: rows of this operation, as the ledger names it: ``usage.commit``. None: of all, like the next three.
    :param sent_by_dag_id: rows that a task of this Dag has sent last.
    :param sent_by_task_id: rows that this task has sent last.
    :param older_than: rows that have needed a person for at least so long: a timedelta, seconds, or an ISO 8601 duration.
    :param max_rows: how many rows a form is about, the oldest first. More rows stay for the next form.
    :param listed_rows: how many rows the form lists, each with a choice of its own. The others are decided with their group.
    :param subject: the form's headline. Default: how many rows of which table need a decision.
    :param response_timeout: how long to wait for an answer: a timedelta, seconds, or an ISO 8601 duration. After that all rows
        stay as they are, and the task succeeds. None: without an end.
    :param assigned_users: who may answer: ids of Airflow users, or mappings with ``id`` and ``name``. Default: everybody whom
        Airflow lets respond for this Dag.
    :param notifiers: what is called when the form is there: Airflow notifiers.
    """

    parameters: ClassVar[Mapping[str, Parameter]] = {
        "sql_conn_id": Parameter(readers.text("the id of a connection")),
        "ledger_table": Parameter(readers.text("the name of a table")),
        "changes_table": Parameter(readers.text("the name of a table")),
        "kinds": Parameter(readers.choices(*KINDS)),
        "ledger_operation": Parameter(readers.optional(readers.text("the name of an operation"))),
        "sent_by_dag_id": Parameter(readers.optional(readers.text("the id of a Dag"))),
        "sent_by_task_id": Parameter(readers.optional(readers.text("the id of a task"))),
        "older_than": Parameter(readers.optional(times.span())),
        "max_rows": Parameter(readers.whole_number(least=1)),
        "listed_rows": Parameter(readers.whole_number(least=0, most=200)),
        "subject": Parameter(readers.optional(readers.text("a headline"))),
        "response_timeout": Parameter(readers.optional(times.span(least=timedelta(seconds=1)))),
        "assigned_users": Parameter(readers.optional(people.users)),
        "notifiers": Parameter(people.notifiers, templated=False),
    }
    template_fields: Sequence[str] = template_fields(parameters)
    ui_color = "#f3ead9"

    def __init__(
        self,
        *,
        sql_conn_id: Templated[str],
        ledger_table: Templated[str] = "limitrail_usage_ledger",
        changes_table: Templated[str] = "limitrail_usage_changes",
        kinds: Templated[Sequence[str] | str] = KINDS,
        ledger_operation: Templated[str] | None = None,
        sent_by_dag_id: Templated[str] | None = None,
        sent_by_task_id: Templated[str] | None = None,
        older_than: Templated[timedelta | float | str] | None = None,
        max_rows: Templated[int] = 10_000,
        listed_rows: Templated[int] = 20,
        subject: Templated[str] | None = None,
        response_timeout: Templated[timedelta | float | str] | None = timedelta(days=1),
        assigned_users: Templated[Sequence[str | Mapping[str, str]] | str] | None = None,
        notifiers: Any = (),
        **kwargs: Unpack[OperatorArguments],
    ) -> None:
        super().__init__(
            subject=subject,
            options=[CARRY_OUT, LEAVE_ALL],
            # So that a form without an answer ends well, and changes nothing.
            defaults=LEAVE_ALL,
            # Without a time, Airflow would take the one for the execution, and say so in a warning.
            response_timeout=response_timeout or timedelta(days=1),
            **kwargs,
        )
        self.sql_conn_id: str = sql_conn_id
        self.ledger_table: str = ledger_table
        self.changes_table: str = changes_table
        self.kinds: Any = kinds
        self.ledger_operation: str | None = ledger_operation
        self.sent_by_dag_id: str | None = sent_by_dag_id
        self.sent_by_task_id: str | None = sent_by_task_id
        self.older_than: Any = older_than
        self.max_rows: int = max_rows
        self.listed_rows: int = listed_rows
        self.response_timeout: Any = response_timeout
        self.assigned_users: Any = assigned_users
        self.notifiers: Any = not_rendered("notifiers", notifiers)

    def execute(self, context: Context) -> UsageApproval:
        """Show the form and wait for its answer; without rows, return no decisions.

        :raises AirflowFailException: a parameter does not fit, or there is no ledger.
        :raises LandingError: the database failed in a way that a retry may get past.
        """
        from airflow.sdk import Param
        from airflow.sdk.definitions.param import ParamsDict

        from limio_limitrail.usage.approval import make_form

        with fail_fast_on_permanent_errors():
            self.read_parameters()
            rows = self._find_rows()
        if not rows:
            self.log.info("No rows of %s need a person: nobody is asked.", self.ledger_table)
            return _pushed({"by": None, "decisions": []}, context)
        asked = rows[: self.max_rows]
        form = make_form(asked, table=self.ledger_table, listed_rows=self.listed_rows, not_shown=len(rows) - len(asked))
        for (kind, reason), count in Counter((row.kind, row.reason) for row in asked).most_common(10):
            self.log.info("Asking about %s %s rows of %s: %s", f"{count:,}", kind, self.ledger_table, reason)
        if len(asked) < len(rows):
            self.log.warning("%s more rows need a person than a form is about (max_rows).", f"{len(rows) - len(asked):,}")
        # It is kept until the answer is there. What the rows are by then does not count: a decision is about what was shown.
        context["ti"].xcom_push(key=_FORM, value=_to_xcom(form.shown))
        self.subject: str | None = self.subject or form.subject
        self.body = form.body
        self.params = ParamsDict({name: Param(**field) for name, field in form.fields.items()})
        answer: UsageApproval = super().execute(context)
        return answer

    def execute_complete(self, context: Context, event: dict[str, Any]) -> UsageApproval:
        """Return what was decided.

        :raises AnswerError: the answer does not belong to the form, and nothing was decided; a retry asks again.
        """
        from limio_limitrail.usage.approval import read_answer

        if "error" in event:
            super().execute_complete(context, event)
        shown = self._shown(context)
        approval = read_answer(
            shown,
            event["params_input"] or {},
            chosen=event["chosen_options"],
            user=event["responded_by_user"],
            at=_instant(event["responded_at"]),
        )
        super().execute_complete(context, {**event, "responded_at": _instant(event["responded_at"])})
        asked = sum(len(group.rows) for group in shown.groups)
        decided = Counter(row["decision"] for row in approval["decisions"])
        words = [f"{word} {count:,}" for word, count in decided.most_common()]
        words.append(f"left as they are {asked - decided.total():,}")
        self.log.info("Answered by %s, about %s rows: %s.", approval["by"] or "nobody", f"{asked:,}", ", ".join(words))
        return _pushed(approval, context)

    def _find_rows(self) -> list[OpenRow]:
        from limio_limitrail.hooks.usage_ledger import open_ledger
        from limio_limitrail.usage.ledger.settlement import Filter

        wanted = Filter(
            kinds=self.kinds,
            operation=self.ledger_operation,
            dag_id=self.sent_by_dag_id,
            task_id=self.sent_by_task_id,
            older_than=None if self.older_than is None else self.older_than.total_seconds(),
        )
        opened = open_ledger(self.sql_conn_id, ledger_table=self.ledger_table, changes_table=self.changes_table)
        with opened as settlements:
            return settlements.list_open(wanted)

    def _shown(self, context: Context) -> ShownForm:
        import msgspec

        from limio_limitrail.usage.approval import AnswerError, ShownForm

        ti: Any = context["ti"]
        found = ti.xcom_pull(task_ids=self.task_id, key=_FORM, map_indexes=ti.map_index)
        try:
            return msgspec.convert(found, ShownForm)
        except msgspec.ValidationError:
            raise AnswerError(
                f"the XCom {_FORM!r} of this task does not hold what the form was about: clear the task, and it asks again"
            ) from None


def _pushed(approval: UsageApproval, context: Context) -> UsageApproval:
    # Also with do_xcom_push=False: the next task would take a missing answer for none.
    context["ti"].xcom_push(key="return_value", value=approval)
    return approval


def _to_xcom(shown: ShownForm) -> Any:
    import msgspec

    return msgspec.to_builtins(shown)


def _instant(value: object) -> datetime:
    if isinstance(value, datetime):
        return value
    try:
        return datetime.fromisoformat(str(value))
    except ValueError:
        return datetime.now(tz=UTC)
