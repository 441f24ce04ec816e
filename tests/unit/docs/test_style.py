# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The docs are readable: short lines, standard words, and messages as the code writes them."""

from __future__ import annotations

import ast
import re

import pytest

from tests.support.pages import PAGES, ROOT

LONGEST = 120
WIDEST = {"README.md": 100}
"""README fits two screens."""
README_LINES = 90

PRIVATE_WORDS = re.compile(
    r"\b(Book|Couriers|Eye|News|Spool|Tally|Sighting|Patience|Desk|Finding|Standing|HeldDatabase|TellsLineage"
    r"|PlacedWalk|SlicedWalk|TokenDesk|FaultBoard|CursorBook|NoPlaceError|NobodyWaitsError|RowGroups|LiftPath|Allowance|Slower|Halt|Unsent|Behind"
    r"|announced\(|side_by_side|alarm_waits|lasting_database|never_left|tries_spent|at_hand|unguarded|note_flow"
    r"|hopeless|unborn|misfits|vacated|couriers|desk|signs? of life|for haste|goes? on from|tries in all|anew|made again"
    r"|stands? still|whoever|walks? (from|through|begun|again)|looks? at (one|the same) (host|list))\b"
)
"""Words that only this project would use. Those of the field stand in their place."""
OTHERS = {"docs/reference/changelog.md", "docs/contributing.md"}
"""Pages that include a file of the project's root."""


def prose(page: str) -> list[tuple[int, str]]:
    """Return a page's lines with their numbers, without its code blocks."""
    lines, fence = [], None
    for number, line in enumerate((ROOT / page).read_text().splitlines(), start=1):
        if opened := re.match(r"\s*(`{3,}|:{3,})", line):
            fence = opened[1] if fence is None else (None if line.strip() == fence else fence)
        elif fence is None:
            lines.append((number, line))
    return lines


@pytest.mark.parametrize("page", [page for page in PAGES if page not in OTHERS])
def test_lines_are_short(page: str) -> None:
    longest = WIDEST.get(page, LONGEST)
    # A table's row and a link cannot be broken.
    long = [(number, line) for number, line in prose(page) if len(line) > longest and not re.match(r"\s*(\||<!--)|.*\]\(", line)]
    assert long == []


def test_the_readme_fits_two_screens() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES


@pytest.mark.parametrize("page", PAGES)
def test_words_are_those_of_the_field(page: str) -> None:
    assert [(number, found[0]) for number, line in prose(page) for found in PRIVATE_WORDS.finditer(line)] == []


FILLED_IN = {
    # Messages that the page shows with values, and what the code has of them.
    "accepts auth_mode=oauth only": " accepts auth_mode=",
    "answered 400": "answered {",
    "answered 401": "answered {",
    "answered 403": "answered {",
    "answered 422": "answered {",
    "still busy with orders of https://... after 280 s": "still busy with {",
    "expected a list in 'items'": "expected a list in ",
    "no slot became free: 3 others are busy with orders of https://...": "no slot became free",
}
OF_DATABASES = {"database is locked", "lock timeout", "must be owner", "permission denied", "statement timeout"}


def texts_of_the_package() -> str:
    """Return all texts of the code, with ``{}`` where a value is filled in."""
    found = []
    for file in (ROOT / "provider").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def test_troubleshooting_quotes_messages_as_the_code_writes_them() -> None:
    page = (ROOT / "docs" / "how-to" / "troubleshooting.md").read_text()
    quoted = {quote for row in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE) for quote in re.findall(r"`([^`]+)`", row)}
    quoted |= set(re.findall(r"^(?:- )?`([^`]+ [^`]+)`:", page, re.MULTILINE))
    assert len(quoted) > 45
    texts = texts_of_the_package()
    pieces = {quote: FILLED_IN.get(quote, quote).split("...") for quote in quoted - OF_DATABASES}
    assert [quote for quote, parts in pieces.items() if not all(part.strip(" ") in texts for part in parts)] == []
