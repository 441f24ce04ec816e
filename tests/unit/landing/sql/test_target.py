# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Targets that make no sense, and what importing the package costs."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime

import pytest

from limio_limitrail.landing.sql import Target, WriteMode

GOOD = {
    "table": "subs",
    "mode": WriteMode.MERGE,
    "primary_key": ("id",),
    "time_column": None,
    "run_id": "run-1",
    "extracted_at": datetime(2024, 1, 1, tzinfo=UTC),
}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"primary_key": ()}, "needs a primary key"),
        ({"primary_key": ("id", "id")}, "twice"),
        ({"extracted_at": datetime(2024, 1, 1)}, "time zone"),
        ({"table": " "}, "name of a table"),
        ({"run_id": ""}, "of a run"),
    ],
)
def test_a_target_that_makes_no_sense(wrong, says):
    assert Target(**GOOD).table == "subs"
    with pytest.raises(ValueError, match=says):
        Target(**{**GOOD, **wrong})


def test_importing_is_cheap():
    heavy = "pyarrow", "duckdb", "pandas", "requests", "psycopg", "psycopg2", "airflow"
    code = f"import sys, limio_limitrail.landing.sql; print([name for name in {heavy} if name in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
