# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Draw docs/images/house.svg, from the layers that import-linter holds in pyproject.toml, and docs/images/journeys.svg.

``python docs/make_diagrams.py``
"""

from __future__ import annotations

import tomllib
from html import escape
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent

ROOMS = {
    "transfers": "pulls into tables and files",
    "operators": "commits of usage",
    "sensors": "waits",
    "triggers": "waits and watches in a triggerer",
    "links": "from a task to its page",
    "hooks": "connection to client",
    "limio": "its lists, as data",
    "limitrail": "its lists, as data",
    "polling": "what is waited for, what is new",
    "usage": "rows, requests, ledger",
    "observability": "lineage, metrics",
    "parameters": "what people give, read and checked",
    "api": "token, request, retry, page",
    "landing": "pages to parts to a table",
}
BESIDE = ("landing",)
"""Rooms that know nothing of the APIs; transfers and operators use them."""

JOURNEYS = (
    ("Scheduled pull", ("connection", "token", "pages", "parts", "manifest")),
    ("Warehouse sync", ("connection", "token", "pages", "parts", "staging table", "one transaction", "watermark, asset event")),
    ("Usage commit", ("rows", "ledger: claimed", "request with its key", "answer", "ledger: outcome", "summary")),
    ("Wait", ("first look on the worker", "deferred", "looks in the triggerer", "event", "task goes on")),
    ("React", ("looks in the triggerer", "position stored", "asset event", "Dag run", "news, each once")),
)

PAPER, INK, LINE, FILL, SOFT = "#ffffff", "#1f2933", "#7b8794", "#e9e4f2", "#f5f3fa"
FONT = "font-family='DejaVu Sans, Verdana, sans-serif'"


def layers() -> list[list[str]]:
    """Give the rooms of each layer, the topmost first."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    [house] = [contract for contract in contracts if contract["type"] == "layers"]
    return [[room.strip().removeprefix("limio_limitrail.") for room in layer.split("|")] for layer in house["layers"]]


def text(x: float, y: float, words: str, *, size: int = 13, weight: str = "normal", anchor: str = "middle") -> str:
    """Draw words."""
    style = f"{FONT} font-size='{size}' font-weight='{weight}' fill='{INK}' text-anchor='{anchor}'"
    return f"<text x='{x:g}' y='{y:g}' {style}>{escape(words)}</text>"


def box(x: float, y: float, width: float, height: float, *, fill: str = FILL) -> str:
    """Draw a box."""
    return f"<rect x='{x:g}' y='{y:g}' width='{width:g}' height='{height:g}' rx='6' fill='{fill}' stroke='{LINE}'/>"


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    """Draw an arrow."""
    return f"<line x1='{x1:g}' y1='{y1:g}' x2='{x2:g}' y2='{y2:g}' stroke='{LINE}' stroke-width='1.5' marker-end='url(#tip)'/>"


def page(width: int, height: int, parts: list[str]) -> str:
    """Put a drawing together."""
    tip = (
        "<defs><marker id='tip' viewBox='0 0 10 10' refX='9' refY='5' markerWidth='7' markerHeight='7' orient='auto'>"
        f"<path d='M0 0 L10 5 L0 10 z' fill='{LINE}'/></marker></defs>"
    )
    head = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' height='{height}'>"
    return "\n".join([head, tip, f"<rect width='{width}' height='{height}' fill='{PAPER}'/>", *parts, "</svg>", ""])


def house() -> str:
    """Draw the rooms, and who may import from whom: always the one below."""
    width, high, gap, main = 1080, 62, 34, 800
    parts: list[str] = []
    for number, rooms in enumerate(layers()):
        y = 24 + number * (high + gap)
        each = (main - 16 * (len(rooms) - 1)) / len(rooms)
        for place, room in enumerate(rooms):
            x = 24 + place * (each + 16)
            parts += [box(x, y, each, high), text(x + each / 2, y + 26, room, size=15, weight="bold")]
            parts += [text(x + each / 2, y + 46, ROOMS[room], size=11)]
        if number:
            parts.append(arrow(24 + main / 2, y - gap + 4, 24 + main / 2, y - 3))
    for number, room in enumerate(BESIDE):
        x, y = 24 + main + 40, 24 + number * (high + gap)
        parts += [box(x, y, 190, high, fill=SOFT), text(x + 95, y + 26, room, size=15, weight="bold")]
        parts += [text(x + 95, y + 46, ROOMS[room], size=11)]
    parts.append(arrow(24 + main + 4, 24 + high / 2, 24 + main + 36, 24 + high / 2))
    parts.append(arrow(24 + main + 4, 24 + high * 0.75, 24 + main + 36, 24 + high + gap + high / 3))
    return page(width, 24 + len(layers()) * (high + gap), parts)


def journeys() -> str:
    """Draw what happens to data, step by step."""
    width, high, step = 1180, 40, 72
    parts: list[str] = []
    for number, (name, steps) in enumerate(JOURNEYS):
        y = 20 + number * step
        parts.append(text(20, y + 25, name, size=14, weight="bold", anchor="start"))
        x = 160.0
        for place, what in enumerate(steps):
            wide = 22 + 7.0 * len(what)
            parts += [box(x, y, wide, high, fill=FILL if place % 2 == 0 else SOFT), text(x + wide / 2, y + 25, what, size=12)]
            if place + 1 < len(steps):
                parts.append(arrow(x + wide + 2, y + high / 2, x + wide + 20, y + high / 2))
            x += wide + 24
    return page(width, 20 + len(JOURNEYS) * step, parts)


DRAWINGS = {"house.svg": house, "journeys.svg": journeys}


def main() -> None:
    """Draw all."""
    for name, draw in DRAWINGS.items():
        (DOCS / "images" / name).write_text(draw())


if __name__ == "__main__":
    main()
