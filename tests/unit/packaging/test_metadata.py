# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What pyproject.toml says about the package is what the other files say."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from limio_limitrail import __version__

ROOT = Path(__file__).resolve().parents[3]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
README = (ROOT / "README.md").read_text()
PIN = re.compile(r"(?P<name>[a-z0-9-]+)==(?P<version>[0-9][a-z0-9.+]*)( ; (?P<marker>[a-zA-Z0-9_.<>=!'* ()]+))?")


def promised_pythons() -> list[str]:
    """The versions that the README promises, oldest first."""
    found = re.search(r"Python 3\.(\d+) to 3\.(\d+)", README)
    assert found is not None
    return [f"3.{minor}" for minor in range(int(found[1]), int(found[2]) + 1)]


def requirements() -> list[Requirement]:
    groups = [*PYPROJECT["dependency-groups"].values(), *PROJECT["optional-dependencies"].values(), PROJECT["dependencies"]]
    return [Requirement(text) for group in groups for text in group if isinstance(text, str)]


def test_the_newest_changes_are_those_of_this_version():
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == __version__
    assert len(set(headings)) == len(headings)


def test_there_is_a_classifier_for_each_python_that_is_promised():
    classified = re.findall(r"Python :: (3\.\d+)$", "\n".join(PROJECT["classifiers"]), re.MULTILINE)
    assert classified == promised_pythons()
    pythons = SpecifierSet(PROJECT["requires-python"])
    assert all(f"{python}.0" in pythons for python in classified)
    assert f"3.{int(classified[0].partition('.')[2]) - 1}.99" not in pythons


def test_it_is_classified_as_a_typed_provider():
    assert {"Framework :: Apache Airflow :: Provider", "Typing :: Typed"} <= set(PROJECT["classifiers"])
    assert (ROOT / "provider/limio_limitrail/py.typed").exists()


def test_the_airflow_that_is_asked_for_is_the_one_that_is_promised():
    found = re.search(r"Airflow (3\.\d+) or newer", README)
    assert found is not None
    (airflow,) = [Requirement(text) for text in PROJECT["dependencies"] if Requirement(text).name == "apache-airflow"]
    assert f">={found[1]}" in str(airflow.specifier).split(",")


def test_readme_and_licence_are_there():
    assert PROJECT["readme"] == "README.md"
    assert README.startswith(f"# {PROJECT['name']}\n")
    assert PROJECT["license"] == "Apache-2.0"
    assert PROJECT["license-files"] == ["LICENSE"]
    assert re.search(r"Apache License\s+Version 2\.0", (ROOT / "LICENSE").read_text())


def test_no_address_is_published_that_the_readme_does_not_know():
    assert [url for url in PROJECT.get("urls", {}).values() if url not in README] == []


def test_the_extras_are_those_that_the_readme_names():
    found = re.search(r"^pip install .*$", README, re.MULTILINE)
    assert found is not None
    assert set(re.findall(r"\[([\w-]+)\]", found[0])) == set(PROJECT["optional-dependencies"])


def test_what_is_installed_is_this_package():
    metadata = importlib.metadata.metadata(PROJECT["name"])
    assert metadata["Version"] == __version__
    assert metadata["Summary"] == PROJECT["description"]


def test_the_constraints_are_names_and_versions():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if PIN.fullmatch(line) is None] == []


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_the_constraints_fit_what_is_asked_for(requirement: Requirement):
    pins = [found for line in (ROOT / "constraints.txt").read_text().splitlines() if (found := PIN.fullmatch(line))]
    versions = [found["version"] for found in pins if found["name"] == requirement.name]
    assert versions, "renew constraints.txt: see CONTRIBUTING.md"
    assert all(version in requirement.specifier for version in versions)
