# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The site is built without a warning, and the reference names what is public."""

from __future__ import annotations

import pkgutil
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from limio_limitrail.provider_info import get_provider_info

DOCS = Path(__file__).resolve().parents[3] / "docs"


@pytest.mark.exhaustive
@pytest.mark.needs_retry_policy
def test_it_is_built_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-q", "-W", "--keep-going", str(DOCS), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    reference = (tmp_path / "reference" / "api.html").read_text()
    for name in ("LimioToSqlOperator", "LimioResourceEventTrigger", "new_events", "ScopeError"):
        assert f">{name}<" in reference
    assert 'id="scopeerror"' in (tmp_path / "how-to" / "troubleshooting.html").read_text()


def test_every_page_is_in_the_contents() -> None:
    listed = re.findall(r"^[a-z0-9/-]+$", (DOCS / "site.md").read_text(), re.MULTILINE)
    pages = (path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md"))
    assert sorted(listed) == sorted(page for page in pages if page != "site")


def test_the_reference_names_every_public_class() -> None:
    text = (DOCS / "reference" / "api.md").read_text()
    named = set(re.findall(r"auto(?:class|function):: ([\w.]+)", text))
    info = get_provider_info()
    rooms = ("hooks", "operators", "sensors", "triggers")
    modules = {name for room in rooms for entry in info[room] for name in entry["python-modules"]}
    modules |= {transfer["python-module"] for transfer in info["transfers"]}
    assert {module for module in modules if not any(name.startswith(f"{module}.") for name in named)} == set()


DIAGRAMS = runpy.run_path(str(DOCS / "make_diagrams.py"))


@pytest.mark.parametrize("name", DIAGRAMS["DRAWINGS"])
def test_drawings_are_those_of_their_source(name: str) -> None:
    assert (DOCS / "images" / name).read_text() == DIAGRAMS["DRAWINGS"][name](), "run: python docs/make_diagrams.py"


def test_the_tables_of_the_journeys_are_those_of_the_drawings() -> None:
    page = (DOCS / "explanation" / "journeys.md").read_text()
    assert DIAGRAMS["with_tables"](page) == page, "run: python docs/make_diagrams.py"
    assert set(re.findall(r"<!-- path: (\w+) -->", page)) == set(DIAGRAMS["PATHS"])


@pytest.mark.parametrize("address", [hop[0] for _, hops in DIAGRAMS["PATHS"].values() for hop in hops])
def test_each_hop_of_a_journey_exists(address: str) -> None:
    assert callable(pkgutil.resolve_name(f"limio_limitrail.{address}"))


def test_the_page_of_the_journeys_names_functions_that_exist() -> None:
    page = (DOCS / "explanation" / "journeys.md").read_text()
    for address in re.findall(r"`((?:api|concurrency|landing|usage|sensors|polling|triggers|transfers|hooks)\.[\w.]+)`", page):
        assert pkgutil.resolve_name(f"limio_limitrail.{address}")
