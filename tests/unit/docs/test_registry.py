# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What registries of providers are told."""

from __future__ import annotations

import importlib
import runpy
import tomllib
from pathlib import Path

import pytest
import yaml
from airflow.sdk import BaseHook, BaseOperator, BaseSensorOperator
from airflow.triggers.base import BaseTrigger

from tests.support.airflow_versions import UNIMPORTABLE

ROOT = Path(__file__).resolve().parents[3]
FILE = ROOT / ".airflow-registry.yaml"
REGISTRY = yaml.safe_load(FILE.read_text())
BASES = {
    "operators": BaseOperator,
    "transfers": BaseOperator,
    "sensors": BaseSensorOperator,
    "triggers": BaseTrigger,
    "hooks": BaseHook,
    "other": object,
}


def test_it_is_the_one_of_the_code():
    assert FILE.read_text() == runpy.run_path(str(ROOT / "docs" / "make_registry.py"))["page"](), (
        "run: python docs/make_registry.py"
    )


def test_it_is_about_this_package():
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert REGISTRY["package-name"] == pyproject["project"]["name"]
    assert set(REGISTRY) - {"package-name", "display-name", "description"} == set(BASES)


@pytest.mark.parametrize(
    ("kind", "entry"), [(kind, entry) for kind in BASES for entry in REGISTRY[kind]], ids=lambda value: str(value)[-60:]
)
def test_each_class_exists_and_is_described(kind: str, entry: dict[str, str]):
    module, _, name = entry["module"].rpartition(".")
    assert len(entry["description"]) > 15
    if module in UNIMPORTABLE:
        # As the docs say of Airflow 3.2.
        with pytest.raises(ImportError):
            importlib.import_module(module)
        return
    found = getattr(importlib.import_module(module), name)
    assert issubclass(found, BASES[kind])
    assert found.__module__ == module


def test_the_readme_and_it_name_the_same_operators():
    readme = (ROOT / "README.md").read_text()
    for kind in ("operators", "transfers", "sensors", "hooks"):
        for entry in REGISTRY[kind]:
            assert entry["module"].rpartition(".")[2] in readme
