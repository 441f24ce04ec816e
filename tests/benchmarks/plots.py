# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Bars, as a picture that a page of the docs can show."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path

WIDTH, LABEL, BAR, GAP, TOP = 860, 330, 20, 8, 44
OWN, OTHER = "#2f7d74", "#b9c4c9"


def bars(path: Path, *, title: str, values: Mapping[str, float], own: str) -> None:
    """Draw a bar for each value.

    :param own: bars whose names begin like this stand out.
    """
    most = max(values.values())
    height = TOP + len(values) * (BAR + GAP) + GAP
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="26" font-size="15" font-weight="bold">{escape(title)}</text>',
    ]
    for number, (name, value) in enumerate(values.items()):
        y = TOP + number * (BAR + GAP)
        length = max(1.0, (WIDTH - LABEL - 90) * value / most)
        colour = OWN if name.startswith(own) else OTHER
        drawn += [
            f'<text x="{LABEL - 8}" y="{y + 15}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{LABEL}" y="{y}" width="{length:.1f}" height="{BAR}" fill="{colour}"/>',
            f'<text x="{LABEL + length + 6:.1f}" y="{y + 15}">{value:,.0f}</text>',
        ]
    path.write_text("\n".join([*drawn, "</svg>"]) + "\n")
