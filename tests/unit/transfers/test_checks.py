# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The parameter `checks`: what is read, and what is refused before the first request."""

from __future__ import annotations

from typing import Any

import pytest

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.transfers import Check
from limio_limitrail.transfers.checks import read_checks


@pytest.mark.parametrize("given", [None, "", "None", [], ()])
def test_nothing(given: object) -> None:
    assert read_checks("checks", given) == ()


def test_checks_and_mappings_and_texts_of_them_are_the_same() -> None:
    read = (Check("unique", columns=("id",)), Check(sql="SELECT 1", name="one"), Check("rows_between", least=1))
    given = [{"kind": "UNIQUE", "columns": "id"}, {"sql": " SELECT 1; ", "name": "one"}, Check("rows_between", least=1)]
    assert read_checks("checks", given) == read
    assert read_checks("checks", str(given[:2])) == read[:2]
    assert read_checks("checks", given[0]) == read[:1]
    assert read_checks("checks", read) == read


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Check(), r"checks must be one of rows_between, unique, not_null, or have sql="),
        ([Check("unique", columns=["a"]), Check("unique", columns=["a"], sql="SELECT 1")], r"checks\[1\] must be one of"),
        ([Check("many")], r"checks\[0\]\['kind'\] must be one of rows_between"),
        ([Check("rows_between")], "with least=, most= or both"),
        ([Check("rows_between", least=2, most=1)], "least no more than most"),
        ([Check("rows_between", least=-1)], r"\['least'\] must be a whole number"),
        ([Check("rows_between", least=1, columns=["a"])], "must be unique or not_null with columns="),
        ([Check("unique")], "must be unique or not_null with columns="),
        ([Check(sql="SELECT 1", columns=["a"])], "must be unique or not_null with columns="),
        ([Check(sql="SELECT 1", most=1)], "must be rows_between to have least= or most="),
        ([Check(sql="SELECT 1; COMMIT")], "must be one SELECT, without semicolons"),
        ([Check(sql="SELECT ';' = ''")], "must be one SELECT, without semicolons"),
        ([Check(sql=" ; ")], "must be one SELECT, without semicolons"),
        ([Check(sql="SELECT '{{ ds }}'")], r"\['sql'\] is a template, and Airflow renders none in Check\(\.\.\.\)"),
        ([{"sql": "SELECT 1", "column": "a"}], "got the member 'column'"),
        ("unique", "checks must be a list of checks"),
        ([5], r"checks\[0\] must be a Check"),
    ],
)
def test_what_is_refused(given: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        read_checks("checks", given)
