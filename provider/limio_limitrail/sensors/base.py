# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What all sensors share, whichever API they look at."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from airflow.sdk import BaseSensorOperator, conf

from limio_limitrail.parameters import readers
from limio_limitrail.parameters.declared import Parameter, ReadsParameters, not_rendered, template_fields

if TYPE_CHECKING:
    from airflow.sdk import Context, PokeReturnValue
    from airflow.triggers.base import BaseTrigger

    from limio_limitrail.hooks.protocol import ResourceHook
    from limio_limitrail.parameters.declared import Templated
    from limio_limitrail.polling.policy import PollPolicy
    from limio_limitrail.polling.poll import NoAnswerError, PollResult, Wait

FAILURES_KEY = "limio_limitrail.failures"
FAILURES_FORMAT = 1
GRACE = timedelta(seconds=60)
"""Airflow's own timeout of a deferral comes so much later than the trigger's, which can say more."""


class EndedError(BaseException):
    """A wait has ended badly. No ``Exception``: Airflow makes a skip of those under soft_fail and never_fail, and nothing of them
    under silent_fail.

    :param why: what happened; or the error that the task fails with, where a retry of the task may get through.
    """

    def __init__(self, why: str | NoAnswerError) -> None:
        super().__init__(str(why))
        self.why = why

    def for_airflow(self) -> Exception:
        """Give what Airflow is told."""
        from airflow.sdk.exceptions import AirflowFailException

        return AirflowFailException(self.why) if isinstance(self.why, str) else self.why


class WaitSensor(ReadsParameters, BaseSensorOperator):
    """Wait for something of an API's. The base of the sensors that people use.

    In each mode the first look is made on the worker, so that wrong credentials, a missing scope or an unknown resource fail in
    the task's own log. Such failures fail the task at once, also with ``soft_fail`` and retries: it is never skipped for them.

    All parameters but ``deferrable`` and ``predicate`` are templates, and may be XComArgs. They are read and checked before the
    first request.

    :param max_transient_failures: so many looks in a row may fail with 429, 5xx or without an answer and count as "not yet"; one
        more fails the task.
    :param deferrable: wait in the triggerer instead of on a worker; by default as Airflow's ``[operators] default_deferrable``
        says. No template.
    """

    parameters: ClassVar[Mapping[str, Parameter]] = {
        "max_transient_failures": Parameter(readers.whole_number(least=0)),
        "deferrable": Parameter(readers.switch, templated=False),
    }
    template_fields: Sequence[str] = template_fields(parameters)
    ui_color = "#e9e4f2"

    def __init__(self, *, max_transient_failures: Templated[int] = 10, deferrable: bool | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.max_transient_failures: int = max_transient_failures
        if deferrable is None:
            deferrable = conf.getboolean("operators", "default_deferrable", fallback=False)
        # Decides how the task is run at all.
        self.deferrable: bool = readers.switch("deferrable", not_rendered("deferrable", deferrable))
        self._failures = 0
        self._put_off = 0.0
        self._retry_after: float | None = None

    @property
    @abstractmethod
    def hook(self) -> ResourceHook:
        """The hook of the API's connection."""

    @abstractmethod
    def wait_for(self, context: Context) -> Wait:
        """Give what is waited for.

        :raises ParameterError: a parameter does not fit.
        """

    @abstractmethod
    def make_trigger(self, **kwargs: Any) -> BaseTrigger:
        """Make the trigger that goes on waiting, of the arguments of `WaitTrigger`."""

    def predicate_path(self) -> str | None:
        """Give the import path of what decides on records, where there is something.

        :raises ParameterError: there is something that cannot be imported in a triggerer.
        """
        return None

    @property
    def policy(self) -> PollPolicy:
        """How patiently it waits."""
        from limio_limitrail.polling.policy import PollPolicy

        return PollPolicy(interval=float(self.poke_interval))

    def execute(self, context: Context) -> Any:
        """Wait, and give what was found.

        :raises AirflowFailException: it cannot come, or something is wrong that no waiting mends.
        :raises NoAnswerError: too many looks in a row have failed.
        :raises AirflowSensorTimeout: it did not come within ``timeout``.
        :raises AirflowTaskTimeout: it did not come within ``execution_timeout``.
        """
        try:
            return self._execute_deferrable(context) if self.deferrable else super().execute(context)
        except EndedError as ended:
            raise ended.for_airflow() from ended.__cause__

    def poke(self, context: Context) -> bool | PokeReturnValue:
        """Look once."""
        from airflow.sdk import PokeReturnValue

        look = self._look(context)
        return False if look is None else PokeReturnValue(is_done=True, xcom_value=dict(look.result or {}))

    def _look(self, context: Context) -> PollResult | None:
        """Look once; none where it is not yet there."""
        from limio_limitrail.api.deadline import deadline_in
        from limio_limitrail.api.errors import ApiError, ParameterError
        from limio_limitrail.hooks.connection import ConnectionFieldError
        from limio_limitrail.polling.policy import cap_note, capped
        from limio_limitrail.polling.poll import NoAnswerError, PollStatus, longest_look

        self._put_off, self._retry_after = 0.0, None
        try:
            self.read_parameters()
            wait = self.wait_for(context)
            client = self.hook.client
            with deadline_in(longest_look(client)):
                look = wait.look(client)
        except (ParameterError, ConnectionFieldError) as error:
            raise EndedError(str(error)) from error
        except ApiError as error:
            failures = self._note_failures(context, self._failures_so_far(context) + 1)
            if not self.policy.may_pass(error):
                raise EndedError(str(error)) from error
            if failures > self.max_transient_failures:
                raise EndedError(NoAnswerError(failures, error)) from error
            self._retry_after = capped(error.retry_after)
            self._put_off = self.policy.pause(failures=failures, retry_after=self._retry_after)
            self.log.warning(
                "%s%s That was failure %d in a row; looking again in %.0f s.",
                error,
                cap_note(error.retry_after),
                failures,
                self._put_off,
            )
            return None
        self._note_failures(context, 0)
        self.log.info("%s: %s.", wait, look.what)
        if look.standing is PollStatus.FAILED:
            raise EndedError(f"{wait}: {look.what}, and cannot get there any more.")
        return look if look.standing is PollStatus.FOUND else None

    # -- failures in a row, also where each look is a process of its own -------------------------------------------

    def _failures_so_far(self, context: Context) -> int:
        store: Any = context.get("task_state_store")
        if not self.reschedule or store is None:
            return self._failures
        return self._read_failures(store.get(FAILURES_KEY), try_number=context["ti"].try_number)

    def _read_failures(self, kept: object, *, try_number: int) -> int:
        """Read what earlier looks have left; what cannot be read counts as none, which puts the end off and no more."""
        from limio_limitrail.stored_formats import UNREADABLE, number, trouble

        if kept is None:
            return 0
        try:
            # Its first version carried no format.
            if (why := trouble(kept.get("format", 1), reads=FAILURES_FORMAT)) is not None:  # type: ignore[attr-defined]
                self.log.warning("How many looks in a row have failed %s. The count begins anew.", why)
                return 0
            return number(kept["failures"]) if kept["try_number"] == try_number else 0  # type: ignore[index]
        except UNREADABLE as error:
            self.log.warning("How many looks in a row have failed cannot be read (%s). The count begins anew.", error)
            return 0

    def _note_failures(self, context: Context, failures: int) -> int:
        store: Any = context.get("task_state_store")
        if self.reschedule and store is not None and failures != self._failures_so_far(context):
            store.set(FAILURES_KEY, {"format": FAILURES_FORMAT, "try_number": context["ti"].try_number, "failures": failures})
        self._failures = failures
        return failures

    def _get_next_poke_interval(self, started_at: Any, run_duration: Callable[[], float], poke_count: int) -> float:
        if self._retry_after is not None and run_duration() + self._retry_after > float(self.timeout):
            self._time_out(f"the API asked to wait {self._retry_after:.0f} s, which is longer than is left")
        return max(float(super()._get_next_poke_interval(started_at, run_duration, poke_count)), self._put_off)

    # -- in the triggerer ------------------------------------------------------------------------------------------

    def _execute_deferrable(self, context: Context) -> Any:
        from limio_limitrail.api.errors import ParameterError
        from limio_limitrail.polling.serialization import wait_to_json

        deadline = time.time() + self._longest_wait
        look = self._look(context)
        if look is not None:
            return dict(look.result or {})
        try:
            trigger = self.make_trigger(
                wait=wait_to_json(self.wait_for(context), predicate=self.predicate_path()),
                interval=float(self.poke_interval),
                deadline=deadline,
                max_transient_failures=self.max_transient_failures,
                failures=self._failures,
                not_before=0.0 if self._retry_after is None else time.time() + self._retry_after,
            )
        except ParameterError as error:
            raise EndedError(str(error)) from error
        return self.defer(
            trigger=trigger,
            method_name="execute_complete",
            timeout=timedelta(seconds=self._longest_wait) + GRACE,
        )

    def execute_complete(self, context: Context, event: Any = None) -> Any:  # noqa: ARG002 - as Airflow calls it
        """Take in what the trigger has seen. Whatever cannot be understood is a failure."""
        from limio_limitrail.polling.poll import EventKind, NoAnswerError
        from limio_limitrail.stored_formats import trouble
        from limio_limitrail.triggers.stored_formats import EVENT_FORMAT

        event = event if isinstance(event, dict) else {}
        # Its first version carried no format.
        if (why := trouble(event.get("format", 1), reads=EVENT_FORMAT)) is not None:
            raise EndedError(f"what the trigger has told {why}. Clear the task to wait anew, or run that version")
        kind, what = event.get("kind"), str(event.get("what", ""))
        match kind:
            case EventKind.FOUND:
                self.log.info("%s", what)
                return event.get("result")
            case EventKind.TIMEOUT:
                self._end_at_deadline(what)
            case EventKind.NO_ANSWER:
                raise NoAnswerError.of(what)
            case EventKind.ENDED:
                raise EndedError(what)
        raise EndedError("the trigger ended the wait without saying how it stands")

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Go on after a deferral. Airflow's own way makes a skip of every failure under soft_fail."""
        from airflow.sdk import BaseOperator
        from airflow.sdk.exceptions import TaskDeferralTimeout

        try:
            return BaseOperator.resume_execution(self, next_method, next_kwargs, context)
        except EndedError as ended:
            raise ended.for_airflow() from ended.__cause__
        except TaskDeferralTimeout:
            self._end_at_deadline("the trigger did not answer in time; is a triggerer running?")

    @property
    def _longest_wait(self) -> float:
        """Seconds until a deferral ends. Airflow itself applies execution_timeout only on a worker."""
        timeout = float(self.timeout)
        return timeout if self.execution_timeout is None else min(timeout, self.execution_timeout.total_seconds())

    def _end_at_deadline(self, what: str) -> NoReturn:
        """End a deferral as Airflow ends a task on a worker.

        :raises AirflowTaskTimeout: the deadline was that of execution_timeout: the task fails, retries apply, soft_fail does not.
        :raises AirflowSensorTimeout: it was that of timeout.
        """
        from airflow.sdk.exceptions import AirflowTaskTimeout

        if self._longest_wait < float(self.timeout):
            raise AirflowTaskTimeout(f"execution_timeout={self.execution_timeout} is over, and it is not there: {what}")
        self._time_out(what)

    def _time_out(self, what: str) -> NoReturn:
        from airflow.sdk.exceptions import AirflowSensorTimeout, AirflowSkipException

        from limio_limitrail.troubleshooting import explained

        message = explained(f"Not there within {float(self.timeout):.0f} s: {what}", error=AirflowSensorTimeout)
        raise AirflowSkipException(message) if self.soft_fail else AirflowSensorTimeout(message)
