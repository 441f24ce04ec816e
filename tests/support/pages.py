# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The fenced code blocks of the docs, for the tests that run them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    "README.md", "CONTRIBUTING.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
]  # fmt: skip


@dataclass(frozen=True)
class Block:
    """A fenced code block.

    :param page: its page, from the project's root.
    :param section: the heading that it stands under.
    :param language: what follows the fence.
    :param text: what stands between the fences.
    :param snippet: the file and the name that a comment before it gives.
    """

    page: str
    section: str
    language: str
    text: str
    snippet: str | None

    def __str__(self) -> str:
        return f"{self.page} ({self.section}): {self.language or 'no language'}: {self.text.strip().splitlines()[0][:60]}"

    def commands(self) -> list[str]:
        """Return the commands of a block for a shell, each with what belongs to it on further lines."""
        found: list[str] = []
        for line in self.text.splitlines():
            begun = found and (found[-1].endswith("\\") or found[-1].count("'") % 2 or found[-1].count('"') % 2)
            if begun:
                found[-1] += f"\n{line}"
            elif line.strip():
                found.append(line)
        return found


def blocks(page: str, *, section: str | None = None, language: str | None = None) -> list[Block]:
    """Return a page's blocks, in order."""
    found, heading, snippet, fence = [], "", None, None
    for line in (ROOT / page).read_text().splitlines():
        if fence is None:
            if opened := re.match(r"\s*(`{3,}|:{3,})(.*)$", line):
                fence, kind, lines = opened[1], opened[2].strip(), []
            elif named := re.match(r"#+ (.*)$", line):
                heading = named[1]
            elif marker := re.match(r"<!-- snippet: (.*) -->$", line):
                snippet = marker[1]
            elif line.strip():
                snippet = None
        elif line.strip() == fence:
            found.append(Block(page, heading, kind, "\n".join(lines) + "\n", snippet))
            fence = snippet = None
        else:
            lines.append(line)
    assert fence is None, f"{page}: a block does not end"
    return [one for one in found if section in {None, one.section} and language in {None, one.language}]
