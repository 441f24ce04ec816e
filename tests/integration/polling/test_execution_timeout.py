# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A deferred wait ends with execution_timeout, as it would on a worker."""

from __future__ import annotations

import re

import pytest

OVER = "Timed out after execution_timeout=0:00:02 waiting for"
CASES = {
    # What the sensor is given; its state, how often it is tried, what its log says. The first one has time for the imports.
    "found": ("execution_timeout=timedelta(hours=1)", "success", 1, ""),
    "execution": ("execution_timeout=timedelta(seconds=2)", "failed", 1, OVER),
    "retried": ("execution_timeout=timedelta(seconds=2), retries=1", "failed", 2, OVER),
    # soft_fail and never_fail are about timeout; one that Airflow cuts on a worker between two looks fails, too.
    "soft": ("execution_timeout=timedelta(seconds=2), soft_fail=True", "failed", 1, OVER),
    "never": ("execution_timeout=timedelta(seconds=2), never_fail=True", "failed", 1, OVER),
    "shorter": ("execution_timeout=timedelta(hours=1), timeout=2", "failed", 1, "Timed out after 2 s"),
    "shorter_soft": ("execution_timeout=timedelta(hours=1), timeout=2, soft_fail=True", "skipped", 1, "Timed out after 2 s"),
}


@pytest.mark.exhaustive
def test_a_deferred_wait_ends_in_time(home, script):
    script.answers.update({name: [404, "active"] if name == "found" else [404] for name in CASES})
    common = "dict(path_type='orders', poke_interval=0.2, timeout=3600, retries=0, retry_delay=NOW, deferrable=True)"
    tasks = [
        f"LimioObjectSensor(**common | dict(task_id={name!r}, object_id={name!r}, {arguments}))"
        for name, (arguments, *_) in CASES.items()
    ]
    home.write_dag("\n".join([f"common = {common}", *tasks]))
    outcome = home.run()
    seen = {name: (outcome.task(name)["state"], outcome.task(name)["tries"]) for name in CASES}
    assert seen == {name: (state, tries) for name, (_, state, tries, _) in CASES.items()}
    output = home.output()
    for name, (*_, says) in CASES.items():
        assert re.search(rf"{re.escape(says)}.*\b{name}\b" if says else "", output), name
