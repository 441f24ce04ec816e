# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The public names are those that the reference lists, and no others."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from limio_limitrail.provider_info import get_provider_info

REFERENCE = (Path(__file__).resolve().parents[3] / "docs" / "reference" / "api.md").read_text()
PUBLIC = {
    module: re.findall(r"`(\w+)`", names)
    for module, names in re.findall(r"^\| `(limio_limitrail[\w.]*)` \| (.*) \|$", REFERENCE, re.MULTILINE)
}
WHOLE_MODULES = set(re.findall(r"^\.\. automodule:: (\S+)$", REFERENCE, re.MULTILINE))
NOT_FOR_PEOPLE = {"LimioWaitTrigger", "LimitRailWaitTrigger"}
"""Classes that the sensors make, and that Airflow imports by their path."""

RETRY_POLICY = "limio_limitrail.retry_policy"
"""Airflow 3.2 cannot import it."""
MODULES = [pytest.param(name, marks=[pytest.mark.needs_retry_policy] if name == RETRY_POLICY else []) for name in PUBLIC]
REGISTERED = {entry["python-module"] for entry in get_provider_info()["transfers"]} | {
    name
    for room in ("hooks", "operators", "sensors", "triggers")
    for entry in get_provider_info()[room]
    for name in entry["python-modules"]
}


def described(module: str) -> list[Any]:
    """What the reference describes, under whatever path, as far as it can be imported together with a module."""
    paths = re.findall(r"^\.\. auto(?:class|function):: (\S+)\.(\w+)$", REFERENCE, re.MULTILINE)
    return [getattr(importlib.import_module(home), name) for home, name in paths if home != RETRY_POLICY or module == home]


def test_what_airflow_lists_is_public() -> None:
    assert set(PUBLIC) >= REGISTERED


@pytest.mark.parametrize("module", MODULES)
def test_public_names_are_there_and_described(module: str) -> None:
    imported = importlib.import_module(module)
    assert PUBLIC[module] or module in WHOLE_MODULES
    found = described(module)
    assert [name for name in PUBLIC[module] if not any(getattr(imported, name) is one for one in found)] == []


@pytest.mark.parametrize("module", sorted(REGISTERED))
def test_a_registered_module_has_no_other_public_names(module: str) -> None:
    own = {
        name
        for name, value in vars(importlib.import_module(module)).items()
        if callable(value) and getattr(value, "__module__", None) == module and not name.startswith("_")
    }
    assert own - NOT_FOR_PEOPLE == set(PUBLIC[module])


def test_the_errors_are_described_by_their_module() -> None:
    assert [name for name, names in PUBLIC.items() if not names] == sorted(WHOLE_MODULES)
