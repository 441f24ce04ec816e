# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What an IDE and a type checker see of the public classes is what the classes take, and what the docs name."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import BaseOperator, BaseSensorOperator

from limio_limitrail.parameters.operator_arguments import OperatorArguments, SensorArguments
from limio_limitrail.provider_info import get_provider_info
from limio_limitrail.transfers.base import DEFAULT_PART_ROWS, DEFAULT_STAGED_ROWS

REFERENCE = (Path(__file__).resolve().parents[3] / "docs" / "reference" / "api.md").read_text()
INFO = get_provider_info()
TRANSFERS = [entry["python-module"] for entry in INFO["transfers"]]
MODULES = TRANSFERS + [name for kind in ("operators", "sensors") for entry in INFO[kind] for name in entry["python-modules"]]
CLASSES = [
    value
    for name in MODULES
    for key, value in vars(importlib.import_module(name)).items()
    if isinstance(value, type) and value.__module__ == name and issubclass(value, BaseOperator) and not key.startswith("_")
]


def parameters_of(function: Any) -> dict[str, inspect.Parameter]:
    return {name: one for name, one in inspect.signature(function).parameters.items() if one.kind is one.KEYWORD_ONLY}


def test_these_are_the_public_operators() -> None:
    assert len(TRANSFERS) == 6
    assert len(CLASSES) == 13


@pytest.mark.parametrize("cls", CLASSES)
def test_a_class_shows_all_of_its_parameters(cls: type[Any]) -> None:
    assert set(parameters_of(cls)) == set(cls.parameters)
    assert set(cls.template_fields) == {name for name, parameter in cls.parameters.items() if parameter.templated}
    rest = [one for one in inspect.signature(cls).parameters.values() if one.kind is one.VAR_KEYWORD]
    typed = "SensorArguments" if issubclass(cls, BaseSensorOperator) else "OperatorArguments"
    assert [one.annotation for one in rest] == [f"Unpack[{typed}]"]


@pytest.mark.parametrize("cls", CLASSES)
def test_each_parameter_reaches_its_own_attribute(cls: type[Any]) -> None:
    # Which process waits is decided when the sensor is made.
    given = {name: True if name == "deferrable" else object() for name in cls.parameters}
    task = cls(task_id="t", **given)
    assert {name: getattr(task, name) for name in given} == given


@pytest.mark.parametrize("part", ["LimioTo", "LimitRailTo", "ToSql", "ToDlt", "ToObjectStorage"])
def test_the_same_parameter_has_the_same_type_and_default_everywhere(part: str) -> None:
    found: dict[str, set[tuple[Any, str]]] = {}
    for cls in CLASSES:
        if part in cls.__name__:
            for name, one in parameters_of(cls).items():
                if name in ("destination", "part_rows") and part in ("LimioTo", "LimitRailTo"):
                    continue  # a folder, or a warehouse; parts that stay, or that are loaded
                found.setdefault(name, set()).add((one.default, str(one.annotation)))
    assert {name: ways for name, ways in found.items() if len(ways) > 1} == {}


def test_parts_that_are_loaded_into_a_table_are_smaller_than_those_that_stay() -> None:
    found = {cls.__name__: parameters_of(cls)["part_rows"].default for cls in CLASSES if "part_rows" in parameters_of(cls)}
    assert found == {name: DEFAULT_STAGED_ROWS if name.endswith("ToSqlOperator") else DEFAULT_PART_ROWS for name in found}
    assert len(found) == 6
    assert DEFAULT_STAGED_ROWS < DEFAULT_PART_ROWS


@pytest.mark.parametrize("cls", CLASSES)
def test_the_reference_has_the_class_and_every_parameter(cls: type[Any]) -> None:
    documented = set(re.findall(r"^\.\. autoclass:: (\S+)$", REFERENCE, re.MULTILINE))
    assert f"{cls.__module__}.{cls.__qualname__}" in documented
    docs = [base.__doc__ or "" for base in cls.__mro__ if f"{base.__module__}.{base.__qualname__}" in documented]
    assert set(cls.parameters) <= set(re.findall(r":param (\w+):", "\n".join(docs)))


@pytest.mark.needs_retry_policy
@pytest.mark.parametrize(("typed", "airflow"), [(OperatorArguments, BaseOperator), (SensorArguments, BaseSensorOperator)])
def test_airflows_own_arguments_are_all_known_to_the_type_checker(typed: type[Any], airflow: type[Any]) -> None:
    own = set(parameters_of(BaseOperator.__init__)) | set(parameters_of(airflow.__init__))
    assert set(typed.__annotations__) == own
