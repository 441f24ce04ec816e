# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Every way to wait meets every way in which a wait may end, in tasks of a real Dag."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from limio_limitrail.emulator import EmulatorServer, Reply
from tests.support.airflow_home import AirflowHome
from tests.support.airflow_versions import MISSING

MODES = {
    "poke": "mode='poke'",
    "reschedule": "mode='reschedule'",
    "deferrable": "deferrable=True",
}
NOT_THERE = 404
HTML = Reply(200, b"<html>Please sign in</html>", content_type="text/html")
LATER = Reply(429, b'{"message":"Slow down"}', {"Retry-After": "1"})
TOO_LONG = Reply(429, b'{"message":"Slow down"}', {"Retry-After": "999999999999"})
SKIPPING = ("soft_fail=True",)
MERCIFUL = "soft_fail=True", "never_fail=True", "silent_fail=True"
STATUSES = "target_statuses=['Processed'], failed_statuses=['FAILED']"


@dataclass(frozen=True, kw_only=True)
class Case:
    """What the API answers, and what must come of it.

    :param answers: statuses of HTTP, statuses of the order, or whole answers, one a request; the last one stays.
    :param requests: how often the order was asked for; at least so often where it is negative.
    :param tokens: with how many tokens.
    :param says: what the task's log says, after the order's id.
    :param counts: whether failures are counted over several looks.
    """

    answers: list[Any] = field(default_factory=lambda: ["active"])
    arguments: str = ""
    state: str = "success"
    tries: int = 1
    requests: int = 1
    tokens: int = 1
    status: str | None = None
    says: str = ""
    counts: bool = False


def failed(*answers: Any, **more: Any) -> Case:
    return Case(answers=list(answers), **{"state": "failed", **more})


def ended(name: str, *answers: Any, ways: tuple[str, ...] = SKIPPING, arguments: str = "", **more: Any) -> dict[str, Case]:
    """The same, also for ways in which Airflow may turn a failure into something else."""
    cases = {f"{name}_{way.partition('_')[0]}": f"{arguments}, {way}".strip(", ") for way in ways}
    return {key: failed(*answers, arguments=all_of_them, **more) for key, all_of_them in {name: arguments, **cases}.items()}


CASES: dict[str, Case] = {
    "at_once": Case(status="active"),
    "later": Case(answers=[NOT_THERE, NOT_THERE, "active"], requests=3, status="active"),
    "status_later": Case(answers=["pending", "something new", "processed"], arguments=STATUSES, requests=3, status="processed"),
    **ended("bad_status", "Failed", arguments=STATUSES, says="no target status can be reached"),
    **ended(
        "bad_status_later",
        "pending",
        "failed",
        arguments=STATUSES,
        requests=2,
        says="and no target status can be reached any more",
    ),
    **ended("missing", NOT_THERE, arguments="missing='fail'", says="answered 404"),
    "mended": Case(answers=[401, "active"], requests=2, tokens=2, status="active"),
    "mended_later": Case(answers=[NOT_THERE, 401, "active"], requests=3, tokens=2, status="active"),
    **ended("refused", 401, requests=2, tokens=2, says="answered 401"),
    **ended("forbidden", 403, ways=MERCIFUL, says="answered 403"),
    **ended("forbidden_later", NOT_THERE, 403, ways=MERCIFUL, requests=2, says="answered 403"),
    **ended("bad_request", 400, says="answered 400"),
    "html": failed(HTML, arguments="retries=1", tries=2, requests=2, tokens=2, says="expected JSON, found something else"),
    **{f"html_{way.partition('_')[0]}": failed(HTML, arguments=f"retries=0, {way}") for way in MERCIFUL},
    "html_later": Case(answers=[NOT_THERE, HTML, HTML, "active"], requests=4, status="active"),
    "html_for_good": failed(NOT_THERE, HTML, arguments="max_transient_failures=1, retries=0", requests=3, counts=True),
    "slow_down": Case(answers=[LATER, "active"], requests=2, status="active"),
    "slow_down_later": Case(answers=[NOT_THERE, LATER, "active"], requests=3, status="active"),
    "slow_down_too_long": failed(TOO_LONG, "active", arguments="timeout=3600"),
    "slow_down_too_long_soft": failed(TOO_LONG, "active", arguments="timeout=3600, soft_fail=True", state="skipped"),
    "away": Case(answers=[503, 502, 500, "active"], requests=4, status="active"),
    "away_between": Case(
        answers=[503, NOT_THERE, 503, NOT_THERE, "active"], arguments="max_transient_failures=1", requests=5, status="active"
    ),
    "away_for_good": failed(
        503,
        arguments="max_transient_failures=1, retries=1",
        tries=2,
        requests=4,
        tokens=2,
        counts=True,
        says="Polling failed (1 in a row)",
    ),
    **{
        f"away_for_good_{way.partition('_')[0]}": failed(
            503, arguments=f"max_transient_failures=1, retries=0, {way}", requests=2, counts=True
        )
        for way in MERCIFUL
    },
    "away_at_once": failed(503, arguments="max_transient_failures=0, retries=0"),
    "never": failed(NOT_THERE, arguments="timeout=3", requests=-2, tokens=9),
    "never_soft": failed(NOT_THERE, arguments="timeout=3, soft_fail=True", state="skipped", requests=-2, tokens=9),
    **ended("neither", arguments="missing='maybe'", requests=0, tokens=0),
    **ended("both", arguments="target_statuses='a', failed_statuses='A'", requests=0, tokens=0),
    **ended("failures_alone", arguments="failed_statuses='a'", requests=0, tokens=0),
    **ended("no_secret", arguments="limio_conn_id='no_secret'", requests=0, tokens=0),
    **ended("wrong_secret", arguments="limio_conn_id='wrong_secret'", requests=0, tokens=0),
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("mode", MODES)
def test_objects(mode: str, make_home: Callable[..., AirflowHome], limio_emulator: EmulatorServer, script: Any) -> None:
    # Between looks that are tasks of their own, failures are counted in the state store.
    uncounted = mode == "reschedule" and MISSING["needs_state_store"]
    cases = {name: case for name, case in CASES.items() if not (uncounted and case.counts)}
    script.answers.update({name: case.answers for name, case in cases.items()})
    known = {"conn_type": "limio", "host": limio_emulator.url, "login": limio_emulator.client_id}
    home = make_home(limio_emulator, no_secret=known, wrong_secret={**known, "password": "not-it"})
    tasks = [
        f"LimioObjectSensor(**common | dict(task_id={name!r}, object_id={name!r}, {case.arguments}))"
        for name, case in cases.items()
    ]
    common = f"dict(path_type='orders', poke_interval=0.1, retries=3, retry_delay=NOW, {MODES[mode]})"
    home.write_dag("\n".join([f"common = {common}", *tasks]))
    outcome = home.run()
    output = home.output()
    seen = {}
    expected = {}
    for name, case in cases.items():
        task, asked = outcome.task(name), script.asked[name]
        seen[name] = (task["state"], task["tries"], asked, task["xcom"])
        requests = case.requests if case.requests >= 0 else max(asked, -case.requests)
        xcom = {"path_type": "orders", "id": name, "status": case.status} if case.status else None
        expected[name] = (case.state, case.tries, requests, xcom)
        assert not case.says or re.search(rf"(?m)^(?=.*\b{name}\b).*{re.escape(case.says)}", output), name
    assert seen == expected
    # Where a task is begun anew for each look it mints a token for each; a triggerer and a worker have one each.
    most = {
        name: {"poke": case.tokens, "reschedule": script.asked[name], "deferrable": case.tokens + case.tries}
        for name, case in cases.items()
    }
    too_many = {name: len(found) for name, found in script.tokens.items() if len(found) > abs(most[name][mode])}
    assert not too_many
    for secret in (limio_emulator.client_secret, *limio_emulator.minted_tokens):
        assert secret not in output
