# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The retry policy decides by the error, and goes through Dag serialization."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

import pytest

from tests.support.airflow_versions import MISSING

if MISSING["needs_retry_policy"]:
    pytest.skip(MISSING["needs_retry_policy"], allow_module_level=True)

from airflow.sdk import DAG, BaseOperator, RetryDecision
from airflow.sdk.definitions.retry_policy import RetryAction
from airflow.sdk.exceptions import AirflowFailException

from limio_limitrail.airflow_errors import fail_fast_on_permanent_errors
from limio_limitrail.api import errors
from limio_limitrail.api.errors import ConnectionFieldError
from limio_limitrail.api.request_context import RequestContext
from limio_limitrail.retry_policy import LONGEST_WAIT, ApiRetryPolicy


def error(kind: type[errors.ApiError], **facts: object) -> errors.ApiError:
    return kind(RequestContext(api="Limio", **facts))  # type: ignore[arg-type]


HOPELESS = [
    error(errors.CredentialsError, status=401),
    error(errors.ScopeError, status=403),
    error(errors.InvalidRequestError, status=400, retry_after=5.0),
    errors.ParameterError("no such resource"),
    ConnectionFieldError("connection 'x', field 'host': it is empty"),
]
OTHERS = [
    error(errors.ServerError, status=503),
    error(errors.RateLimitError, status=429),
    error(errors.TransportError),
    error(errors.NotFoundError, status=404),
    error(errors.ProtocolError),
    error(errors.CursorRefusedError, status=400),
    ValueError("x"),
    KeyboardInterrupt(),
]


def decide(problem: BaseException) -> RetryDecision:
    return ApiRetryPolicy().evaluate(problem, 1, 3, None)


@pytest.mark.parametrize("problem", HOPELESS, ids=lambda problem: type(problem).__name__)
def test_what_no_retry_mends_fails_at_once(problem):
    decision = decide(problem)
    assert decision.action is RetryAction.FAIL
    assert decision.reason
    with pytest.raises(AirflowFailException) as caught, fail_fast_on_permanent_errors():
        raise problem
    assert str(problem) == str(caught.value)
    assert caught.value.__cause__ is problem


@pytest.mark.parametrize("problem", OTHERS, ids=lambda problem: type(problem).__name__)
def test_everything_else_is_left_to_the_task(problem):
    assert decide(problem) == RetryDecision.default()
    with pytest.raises(type(problem)) as caught, fail_fast_on_permanent_errors():
        raise problem
    assert caught.value is problem


@pytest.mark.parametrize("kind", [errors.RateLimitError, errors.ServerError])
@pytest.mark.parametrize(
    ("asked", "waited"), [(0.0, 1), (90.0, 91), (86_399.0, 86_400), (86_400.0, 86_400), (1e15, 86_400), (float("inf"), 86_400)]
)
def test_the_next_try_waits_as_long_as_the_api_asked(kind, asked, waited):
    decision = decide(error(kind, status=429, retry_after=asked))
    assert decision.action is RetryAction.RETRY
    assert decision.retry_delay == timedelta(seconds=waited) <= LONGEST_WAIT
    assert (decision.reason == "waiting as long as the API asked") == (asked < waited)
    assert f"the API asked for {asked:.0f} s" in decision.reason or asked < waited


def test_airflow_asks_it_with_names():
    decision = ApiRetryPolicy().evaluate(exception=HOPELESS[0], try_number=1, max_tries=3, context=None)
    assert decision.action is RetryAction.FAIL


def test_a_dag_that_uses_it_goes_through_serialization():
    from airflow.serialization.serialized_objects import DagSerialization

    with DAG("with_policy", start_date=datetime(2026, 1, 1), schedule=None) as dag:
        BaseOperator(task_id="pull", retries=3, retry_policy=ApiRetryPolicy())
        BaseOperator.partial(task_id="mapped", retries=3, retry_policy=ApiRetryPolicy()).expand(doc=["a", "b"])
    text = json.dumps(DagSerialization.to_dict(dag))
    back = DagSerialization.from_dict(json.loads(text))
    assert back.get_task("pull").has_retry_policy
    assert set(back.task_ids) == {"pull", "mapped"}


def test_it_reads_what_it_writes():
    written = json.loads(json.dumps(ApiRetryPolicy().serialize()))
    assert written == {"__type": "limio_limitrail.retry_policy.ApiRetryPolicy"}
    assert isinstance(ApiRetryPolicy.deserialize(written), ApiRetryPolicy)
