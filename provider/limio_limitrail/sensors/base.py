# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The base of all sensors: poll a condition on the worker, then there or in the triggerer until the deadline."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Unpack

from airflow.sdk import BaseOperator, BaseSensorOperator, PokeReturnValue, conf
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    TaskDeferralTimeout,
)

from limio_limitrail.api.errors import ApiError, ConnectionFieldError, ParameterError, ProtocolError
from limio_limitrail.api.retry import deadline_in
from limio_limitrail.parameters import readers, references, times
from limio_limitrail.parameters.declared import Parameter, ReadsParameters, not_rendered, template_fields
from limio_limitrail.polling.poll import (
    EVENT_FORMAT,
    EventKind,
    NoAnswerError,
    PollResult,
    PollStatus,
    WaitSpec,
    longest_poll,
    wait_policy,
)
from limio_limitrail.stored_formats import UNREADABLE, number, trouble
from limio_limitrail.troubleshooting import explained

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.triggers.base import BaseTrigger

    from limio_limitrail.api.resource import Resource
    from limio_limitrail.hooks.base import ApiHook
    from limio_limitrail.parameters.declared import Templated
    from limio_limitrail.parameters.operator_arguments import SensorArguments
    from limio_limitrail.polling.conditions import Condition, RecordsCondition

FAILURES_KEY = "limio_limitrail.failures"
FAILURES_FORMAT = 1
GRACE = timedelta(seconds=60)
"""Airflow's own timeout of a deferral comes so much later than the trigger's, which can say more."""


_MOST_DOUBLINGS = 500
"""Of a poke interval: it is then longer than any timeout."""


class WaitFailedError(BaseException):
    """A wait has failed. Not an ``Exception``: Airflow skips the task for those under soft_fail and never_fail, and ignores them
    under silent_fail.

    :param reason: what happened; or the error that the task fails with, if a retry of the task may succeed.
    """

    def __init__(self, reason: str | Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason

    def for_airflow(self) -> Exception:
        """Return the error that Airflow gets."""
        return AirflowFailException(self.reason) if isinstance(self.reason, str) else self.reason


@contextmanager
def _configuration() -> Iterator[None]:
    """Turn what is wrong before a request is sent into the end of the wait, also if Airflow does not find the connection."""
    try:
        yield
    except (ParameterError, ConnectionFieldError) as error:
        raise WaitFailedError(str(error)) from error
    except ApiError:
        raise
    except Exception as error:  # noqa: BLE001 - of Airflow's backends of connections
        raise WaitFailedError(error) from error.__cause__


class WaitSensor(ReadsParameters, BaseSensorOperator):
    """Wait for a condition of an API's. The base of the sensors that people use.

    In each mode the first poll is made on the worker, so that wrong credentials, a missing scope or an unknown resource fail in
    the task's own log. Such failures fail the task at once, also with ``soft_fail`` and retries: it is never skipped for them.

    All parameters but ``deferrable`` and ``predicate`` are templates, and may be XComArgs. They are read and checked before the
    first request.

    :param max_transient_failures: so many polls in a row may fail with 429, 5xx or without a response and count as "not yet"; one
        more fails the task.
    :param deferrable: wait in the triggerer instead of on a worker; by default as Airflow's ``[operators] default_deferrable``
        says. Not a template.
    """

    parameters: ClassVar[Mapping[str, Parameter]] = {
        "max_transient_failures": Parameter(readers.whole_number(least=0)),
        "deferrable": Parameter(readers.switch, templated=False),
    }
    template_fields: Sequence[str] = template_fields(parameters)
    ui_color = "#e9e4f2"

    def __init__(
        self, *, max_transient_failures: Templated[int] = 10, deferrable: bool | None = None, **kwargs: Unpack[SensorArguments]
    ) -> None:
        super().__init__(**kwargs)
        self.max_transient_failures: int = max_transient_failures
        if deferrable is None:
            deferrable = conf.getboolean("operators", "default_deferrable", fallback=False)
        # It decides how the task is run at all.
        self.deferrable: bool = readers.switch("deferrable", not_rendered("deferrable", deferrable))
        self._failures = 0
        self._has_polled = False
        self._pause = 0.0
        self._retry_after: float | None = None

    @property
    @abstractmethod
    def hook(self) -> ApiHook:
        """The hook of the API's connection."""

    @abstractmethod
    def condition(self, context: Context) -> Condition:
        """Return what to wait for.

        :raises ParameterError: a parameter is wrong.
        """

    @abstractmethod
    def make_trigger(self, spec: WaitSpec) -> BaseTrigger:
        """Return the trigger that continues to wait."""

    def predicate_path(self) -> str | None:
        """Return the import path of the predicate, if there is one.

        :raises ParameterError: it cannot be imported in a triggerer.
        """
        return None

    def execute(self, context: Context) -> Any:
        """Wait, and return what was found.

        :raises AirflowFailException: the condition cannot be met, or something is wrong that waiting does not change.
        :raises NoAnswerError: too many polls in a row failed.
        :raises AirflowSensorTimeout: the condition was not met within ``timeout``.
        :raises AirflowTaskTimeout: it was not met within ``execution_timeout``.
        """
        try:
            return self._execute_deferrable(context) if self.deferrable else super().execute(context)
        except WaitFailedError as ended:
            raise ended.for_airflow() from ended.__cause__

    def poke(self, context: Context) -> bool | PokeReturnValue:
        """Poll once."""
        found = self._poll(context)
        return False if found is None else PokeReturnValue(is_done=True, xcom_value=dict(found.result or {}))

    def _poll(self, context: Context) -> PollResult | None:
        """Poll once; return None if the condition is not yet met."""
        self._pause, self._retry_after = 0.0, None
        with _configuration():
            self.read_parameters()
            condition = self.condition(context)
            client = self.hook.client
        try:
            with deadline_in(longest_poll(client)):
                found = condition.poll(client)
        except (ParameterError, ConnectionFieldError) as error:
            raise WaitFailedError(str(error)) from error
        except ApiError as error:
            policy = wait_policy(poke_interval=float(self.poke_interval), max_transient_failures=self.max_transient_failures)
            failure = policy.failed(error, failures=self._failures_so_far(context))
            if not failure.is_transient:
                raise WaitFailedError(str(error)) from error
            if isinstance(error, ProtocolError) and self._is_first_poll(context):
                # Most likely it is a wrong host, which is to be seen at once; after a night's maintenance a retry succeeds.
                raise WaitFailedError(NoAnswerError.after(failure.count, error)) from error
            self._note_failures(context, failure.count)
            if failure.is_last:
                raise WaitFailedError(NoAnswerError.after(failure.count, error)) from error
            self._pause, self._retry_after = failure.pause, failure.retry_after
            self.log.warning(
                "Polling failed (%d in a row): %s Retrying in %.0f s.", failure.count, failure.message, failure.pause
            )
            return None
        self._note_failures(context, 0)
        self._has_polled = True
        self.log.info("%s: %s.", condition, found.summary)
        if found.status is PollStatus.FAILED:
            raise WaitFailedError(f"{condition}: {found.summary}, and no target status can be reached any more.")
        return found if found.status is PollStatus.FOUND else None

    def _is_first_poll(self, context: Context) -> bool:
        """Return whether no poll of this try has had an answer, as far as it is known."""
        rescheduled: int = context.get("task_reschedule_count", 0)
        return not (self._has_polled or rescheduled)

    # -- failures in a row, also if each poll is a process of its own ----------------------------------------------

    def _failures_so_far(self, context: Context) -> int:
        """Return the count of earlier polls. One that cannot be read counts as none, which only delays the end."""
        store: Any = context.get("task_state_store")
        if not self.reschedule or store is None:
            return self._failures
        if (stored := store.get(FAILURES_KEY)) is None:
            return 0
        try:
            if (reason := trouble(stored.get("format"), reads=FAILURES_FORMAT)) is None:
                return number(stored["failures"]) if stored["try_number"] == context["ti"].try_number else 0
        except UNREADABLE as error:
            reason = f"cannot be read ({error})"
        self.log.warning("The stored number of failed polls %s. It starts again at 0.", reason)
        return 0

    def _note_failures(self, context: Context, failures: int) -> None:
        store: Any = context.get("task_state_store")
        if self.reschedule and store is not None and failures != self._failures_so_far(context):
            store.set(FAILURES_KEY, {"format": FAILURES_FORMAT, "try_number": context["ti"].try_number, "failures": failures})
        self._failures = failures

    def _get_next_poke_interval(self, started_at: Any, run_duration: Callable[[], float], poke_count: int) -> float:
        if self._retry_after is not None and run_duration() + self._retry_after > float(self.timeout):
            self._time_out(f"because the API asked to wait {self._retry_after:.0f} s, which is longer than is left")
        # With exponential_backoff, Airflow doubles the interval with each poke, and after a thousand it is no float any more.
        interval = super()._get_next_poke_interval(started_at, run_duration, min(poke_count, _MOST_DOUBLINGS))
        return max(float(interval), self._pause)

    # -- in the triggerer ------------------------------------------------------------------------------------------

    def _execute_deferrable(self, context: Context) -> Any:
        from limio_limitrail.polling.conditions import condition_to_json

        deadline = time.time() + self._longest_wait
        with _configuration():
            # Before the first poll: what a triggerer cannot be given is not to show only on a day on which it has to wait.
            self.read_parameters()
            condition = condition_to_json(self.condition(context), predicate=self.predicate_path())
        found = self._poll(context)
        if found is not None:
            return dict(found.result or {})
        spec = WaitSpec(
            condition=condition,
            poke_interval=float(self.poke_interval),
            deadline=deadline,
            max_transient_failures=self.max_transient_failures,
            failures=self._failures,
            not_before=0.0 if self._retry_after is None else time.time() + self._retry_after,
        )
        return self.defer(
            trigger=self.make_trigger(spec),
            method_name="execute_complete",
            timeout=timedelta(seconds=self._longest_wait) + GRACE,
        )

    def execute_complete(self, context: Context, event: Any = None) -> Any:  # noqa: ARG002 - as Airflow calls it
        """Handle the trigger's event. One that cannot be read is a failure."""
        event = event if isinstance(event, dict) else {}
        if (reason := trouble(event.get("format"), reads=EVENT_FORMAT)) is not None:
            raise WaitFailedError(f"the trigger's event {reason}. Clear the task to start a new wait, or run that version")
        kind, message = event.get("kind"), str(event.get("message", ""))
        match kind:
            case EventKind.FOUND:
                self.log.info("%s", message)
                return event.get("result")
            case EventKind.TIMEOUT:
                self._end_at_deadline(message)
            case EventKind.NO_ANSWER:
                raise NoAnswerError(message)
            case EventKind.ENDED:
                raise WaitFailedError(message)
        raise WaitFailedError("the trigger ended the wait without a result")

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Continue after a deferral. Airflow's own method skips the task for every failure under soft_fail."""
        try:
            return BaseOperator.resume_execution(self, next_method, next_kwargs, context)
        except WaitFailedError as ended:
            raise ended.for_airflow() from ended.__cause__
        except TaskDeferralTimeout:
            self._end_at_deadline("waiting for the trigger. Is a triggerer running?")

    @property
    def _longest_wait(self) -> float:
        """Seconds until a deferral ends. Airflow itself applies execution_timeout only on a worker."""
        timeout = float(self.timeout)
        return timeout if self.execution_timeout is None else min(timeout, self.execution_timeout.total_seconds())

    def _end_at_deadline(self, clause: str) -> NoReturn:
        """End a deferral as Airflow ends a task on a worker.

        :raises AirflowTaskTimeout: execution_timeout is over: the task fails, retries apply, soft_fail does not.
        :raises AirflowSensorTimeout: timeout is over.
        """
        if self._longest_wait < float(self.timeout):
            raise AirflowTaskTimeout(f"Timed out after execution_timeout={self.execution_timeout} {clause}")
        self._time_out(clause)

    def _time_out(self, clause: str) -> NoReturn:
        text = explained(f"Timed out after {float(self.timeout):.0f} s {clause}", error=AirflowSensorTimeout)
        raise AirflowSkipException(text) if self.soft_fail else AirflowSensorTimeout(text)


class RecordsSensor(WaitSensor):
    """Wait for a list to have matching records. The base of the sensors that people use.

    Each poll reads the list from its beginning until enough records match. A list that cannot be filtered by time is read whole
    as long as they do not.

    :param resource: a name of the API's table of resources, or a `Resource` of your own.
    :param path_params: values for the placeholders of the resource's path, such as ``service``.
    :param query_params: further query parameters.
    :param min_records: how many records must match.
    :param since: the lower bound in time, for lists that filter by it: a datetime, or an ISO 8601 text. For a list that demands
        one, the default is the start of the data interval.
    :param page_size: records to ask for per page; by default the connection's.
    :param predicate: says whether a record (a mapping) matches: a function, or its import path. To wait in the triggerer it
        must be a path, and of a module that the triggerer has. Not a template.
    """

    resource: str | Resource
    path_params: Mapping[str, Any] | None
    query_params: Mapping[str, Any] | None
    min_records: int
    since: datetime | None
    until: datetime | None = None  # a parameter only of an API whose filters have an upper bound
    page_size: int | None
    predicate: str | Callable[[Mapping[str, Any]], bool] | None

    parameters: ClassVar[Mapping[str, Parameter]] = {
        **WaitSensor.parameters,
        "resource": Parameter(references.resource),
        "path_params": Parameter(readers.param_values),
        "query_params": Parameter(readers.param_values),
        "min_records": Parameter(readers.whole_number(least=1)),
        "since": Parameter(readers.optional(times.instant)),
        "page_size": Parameter(readers.optional(readers.whole_number(least=1))),
        "predicate": Parameter(readers.optional(references.function_or_path), templated=False),
    }
    template_fields: Sequence[str] = template_fields(parameters)

    def page_url(self) -> str:
        """Return the URL of the page that shows the list."""
        name = self.resource if isinstance(self.resource, str) else self.resource.name
        return self.hook.page_url(name, resource=name)

    def predicate_path(self) -> str | None:
        """Return the import path of the predicate.

        :raises ParameterError: it is a function of the Dag file.
        """
        if callable(self.predicate):
            raise ParameterError(
                "predicate= is a function, which cannot be handed to a triggerer: give its import path, such as "
                "my_package.my_module.my_function, or wait with deferrable=False"
            )
        return self.predicate

    def condition(self, context: Context) -> RecordsCondition:
        """Return what to wait for, in the range of time that a pull would have.

        :raises ParameterError: a parameter is wrong, or a bound does not suit the list.
        """
        from limio_limitrail.hooks.time_range import RunTimes, choose_range
        from limio_limitrail.polling.conditions import RecordsCondition

        resource = self.hook.find_resource(self.resource)
        time_range = choose_range(resource, run=RunTimes.of(context), since=self.since, until=self.until)
        return RecordsCondition(
            resource=resource,
            path_params=dict(self.path_params or {}),
            query_params=dict(self.query_params or {}),
            since=time_range.since,
            until=time_range.until,
            min_records=self.min_records,
            page_size=self.page_size or self.hook.page_size,
            predicate=None if self.predicate is None else references.function("predicate", self.predicate),
        )
