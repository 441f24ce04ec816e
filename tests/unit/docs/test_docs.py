# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The docs say what the code says."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from airflow.sdk.exceptions import AirflowSensorTimeout

import limio_limitrail
from limio_limitrail.api.errors import ApiError, ConnectionFieldError, ParameterError, RateLimitError, ScopeError
from limio_limitrail.api.request_context import RequestContext
from limio_limitrail.landing.sql.model import LandingError
from limio_limitrail.troubleshooting import ExplainedError, address_of, explained, set_site

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"
PAGE = DOCS / "how-to" / "troubleshooting.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_snippets_are_those_of_the_examples(page: Path) -> None:
    text = page.read_text()
    assert script("include_snippets").with_snippets(text) == text, "run: python docs/include_snippets.py"


def test_the_table_of_resources_is_the_one_of_the_code() -> None:
    assert (DOCS / "reference" / "resources.md").read_text() == script("make_resources").page(), (
        "run: python docs/make_resources.py"
    )


def test_the_table_of_destinations_is_what_dlt_declares() -> None:
    assert (DOCS / "reference" / "dlt-destinations.md").read_text() == script("make_destinations").page(), (
        "run: python docs/make_destinations.py"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", page.read_text()):
        path = (page.parent / target) if target else page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{target}#{anchor}"


def test_links_of_the_installed_pages_lead_to_installed_pages() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    folders = [ROOT / folder for folder in wheel]
    assert {target.removeprefix("limio_limitrail/") for target in wheel.values()} == set(wheel)
    for page in (page for folder in folders for page in folder.glob("*.md")):
        for target in re.findall(r"(?<!!)\[[^\]]*\]\((?!https?:)([^)#]+)", re.sub(r"!\[[^\]]*\]\([^)]*\)", "", page.read_text())):
            assert (page.parent / target).resolve().parent in folders, f"{page.name}: {target}"


INTERNAL = {
    "CommitConflictError",
    "ApiError", "BadCursorError", "EndedError", "PredicateError", "ExplainedError",
    "PermanentUsageError", "SendingStoppedError",
    "ConsumerStoppedError", "NotJSONError", "NestedTooDeeplyError", "BodyTooLargeError", "TooManyBytesError",
    "_BrokenError", "NoObjectError", "AmbiguousMemberError", "OtherCaseError", "UnsolicitedDataError", "_TooManyDigitsError",
    "PollTimeoutError", "WaitFailedError", "_DryRunEndedError",
    "_GaveUpError", "_InUseError", "_UnusableError", "UnusableError", "_UnfitError", "MaskedKeyError", "PageError", "BusyError",
}  # fmt: skip
"""Bases, and errors that no user sees: they are caught within the package."""


def errors_of_the_package() -> dict[str, type[BaseException]]:
    """All classes of errors that the package has, the emulator's aside."""
    found = {}
    for module in pkgutil.walk_packages(limio_limitrail.__path__, "limio_limitrail."):
        if module.name.startswith("limio_limitrail.emulator"):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            ours = isinstance(value, type) and value.__module__.startswith("limio_limitrail")
            if ours and issubclass(value, BaseException) and name not in INTERNAL:
                found[name] = value
    return found


@pytest.mark.needs_retry_policy
def test_every_error_is_explained_where_its_message_says() -> None:
    errors = errors_of_the_package()
    assert {"ScopeError", "LandingError", "UsageFailedError", "ConnectionFieldError"} <= set(errors)
    headings = re.findall(r"^### (.*)$", (DOCS / "how-to" / "troubleshooting.md").read_text(), re.MULTILINE)
    for name, error in {**errors, "AirflowSensorTimeout": AirflowSensorTimeout}.items():
        assert name in headings
        where = address_of(name.lower())
        assert where == f"{PAGE.as_uri()}#{name.lower()}"
        if name != "AirflowSensorTimeout":
            assert issubclass(error, ExplainedError), name
            one = error.__new__(error)
            Exception.__init__(one, "why")
            if isinstance(one, ApiError):
                one.context = RequestContext(api="Limio")
            assert str(one).endswith(where)


@pytest.mark.parametrize(
    ("message", "error", "shown"),
    [
        ("no", ParameterError, f"no. More: {PAGE.as_uri()}#parametererror"),
        ("Try again.", RateLimitError, f"Try again. More: {PAGE.as_uri()}#ratelimiterror"),
        ("x: no. More: file:///p.md#scopeerror", LandingError, "x: no. More: file:///p.md#scopeerror"),
    ],
)
def test_a_message_leads_to_one_part_of_the_page(message: str, error: type[Exception], shown: str) -> None:
    assert explained(message, error=error) == shown


def test_messages_hold_links_where_the_site_is_known() -> None:
    try:
        set_site("https://docs.example.com/limio/")
        error = ScopeError(RequestContext(api="Limio", status=403))
        assert str(error).endswith(" More: https://docs.example.com/limio/how-to/troubleshooting.html#scopeerror")
        assert "docs.example.com" not in error.what
    finally:
        set_site("")
    assert str(ConnectionFieldError("field")).endswith("#connectionfielderror")
