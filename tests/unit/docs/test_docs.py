# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The docs say what the code says."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from limio_limitrail.api import errors
from limio_limitrail.api.errors import ApiError

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_snippets_are_those_of_the_examples(page: Path) -> None:
    text = page.read_text()
    assert script("include_snippets").with_snippets(text) == text, "run: python docs/include_snippets.py"


def test_the_table_of_resources_is_the_one_of_the_code() -> None:
    assert (DOCS / "resources.md").read_text() == script("make_resources").page(), "run: python docs/make_resources.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", page.read_text()):
        path = (page.parent / target) if target else page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{target}#{anchor}"


def test_every_error_is_in_the_table_of_failures() -> None:
    page = (DOCS / "troubleshooting.md").read_text()
    leaves = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, ApiError)} - {
        "ApiError"
    }
    missing = {name for name in leaves if f"`{name}`" not in page}
    assert missing == set()
