# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Put the snippets of the docs in from the files that the tests run: ``python docs/include_snippets.py``. A test compares them.

A snippet is marked by ``<!-- snippet: FILE NAME -->`` before a code block, and stands in FILE between ``# [START NAME]`` and
``# [END NAME]``.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_PLACE = re.compile(r"(<!-- snippet: (?P<file>\S+) (?P<name>\w+) -->\n```python\n)(?P<code>.*?)(```)", re.DOTALL)


def snippet(file: str, name: str) -> str:
    """Read a snippet out of a file."""
    text = (ROOT / file).read_text()
    found = re.search(rf"^[ ]*# \[START {name}\]\n(.*?)^[ ]*# \[END {name}\]$", text, re.DOTALL | re.MULTILINE)
    if found is None:
        raise ValueError(f"{file} has no snippet {name}")
    return textwrap.dedent(found[1]).strip() + "\n"


def with_snippets(page: str) -> str:
    """Return a page with its snippets up to date."""
    return _PLACE.sub(lambda place: f"{place[1]}{snippet(place['file'], place['name'])}{place[5]}", page)


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(with_snippets(path.read_text()))
