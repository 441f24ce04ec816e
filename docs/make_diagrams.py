# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Draw the diagrams of the docs: ``python docs/make_diagrams.py``. Tests compare them.

``packages.svg`` shows the layers that import-linter enforces in pyproject.toml, ``journeys.svg`` what happens to data, and
``journey-page.svg``, ``journey-row.svg`` and ``journey-wait.svg`` each hop of a journey, with the tables of
docs/explanation/journeys.md.
"""

from __future__ import annotations

import re
import tomllib
from functools import partial
from html import escape
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
JOURNEYS_PAGE = DOCS / "explanation" / "journeys.md"

PACKAGES = {
    "plugins": "the page Usage in Airflow's web interface",
    "transfers": "pulls into tables and files",
    "operators": "commits of usage",
    "sensors": "waits",
    "triggers": "waits and watches in a triggerer",
    "links": "links of tasks",
    "hooks": "connections to clients",
    "limio": "list endpoints, as data",
    "limitrail": "list endpoints, as data",
    "polling": "conditions, changes",
    "usage": "rows, requests, ledger",
    "observability": "lineage, metrics",
    "parameters": "reads and checks parameters",
    "api": "token, request, retry, page",
    "landing": "pages to parts to a table",
}
BESIDE = ("landing",)
"""Packages that are independent of both APIs; transfers and usage use them."""

JOURNEYS = (
    ("Scheduled pull", ("connection", "token", "pages", "parts", "manifest")),
    ("Warehouse sync", ("connection", "token", "pages", "parts", "staging table", "one transaction", "watermark, asset event")),
    ("Usage commit", ("rows", "ledger: claimed", "request with its key", "answer", "ledger: outcome", "summary")),
    ("Wait", ("first poll on the worker", "deferred", "polls in the triggerer", "event", "task continues")),
    ("React", ("polls in the triggerer", "position stored", "asset event", "Dag run", "new events, each once")),
)

TASK, PREFETCH, WRITER, LOOP, THREAD, TRIGGERER, DATABASE = (
    "the task's thread",
    "prefetch thread",
    "background writer",
    "event loop of the send loop",
    "a thread of the triggerer",
    "event loop of the triggerer",
    "one transaction",
)
"""Where a hop runs."""

PATHS: dict[str, tuple[str, tuple[tuple[str, str, str], ...]]] = {
    "page": (
        "A page, from the socket to the table",
        (
            ("api.transport.Transport.exchange", PREFETCH, "sends a request and reads the response, within its bounds"),
            ("api.attempt.run_attempt", PREFETCH, "runs one attempt: a fresh token after a 401, redirects on the same origin"),
            ("api.client.ApiClient.send", PREFETCH, "retries with backoff; turns failures into errors"),
            ("api.page.parse_page", PREFETCH, "splits the body into undecoded records, and checks the envelope"),
            ("api.list_reader.ListReader.pages", PREFETCH, "follows the cursor, and guards the list: repeated pages, totals"),
            ("concurrency.prefetch", TASK, "hands pages over, at most two ahead"),
            ("landing.pull.Pull.run", TASK, "fills parts, saves a checkpoint after each, writes the manifest last"),
            ("landing.part_builders.GroupBuilder.add", TASK, "decodes a page into Arrow columns"),
            ("landing.parts.store_part", WRITER, "writes a part, with its SHA-256"),
            ("landing.sql.loading.load", DATABASE, "plans columns, widens types, loads all parts, or rolls back"),
            ("landing.sql.direct_load.load_directly", DATABASE, "a new table: loads the parts directly"),
            ("landing.sql.staged_rows.stage_columns", DATABASE, "an existing table: rows for the staging table, then merged"),
            ("transfers.state.AssetWatermark.move", TASK, "moves the watermark after the commit"),
        ),
    ),
    "row": (
        "A usage row, from SQL to the ledger",
        (
            ("usage.rows.rows_of_query", TASK, "reads rows of the query"),
            ("usage.messages.UsageTemplate.build", TASK, "makes key, path and body of a row"),
            ("usage.row_buffer.RowBuffer.add", TASK, "keeps the rows on disk, and finds repetitions and clashes"),
            ("usage.ledger.ledger.Ledger.claim", TASK, "commits `sending` for each open row, with a lease"),
            ("usage.send_loop.SendLoop.submit", TASK, "hands claimed rows to the event loop, which limits concurrency"),
            ("usage.sender.UsageSender.__call__", LOOP, "sends a row with its key; retries if that is safe"),
            ("usage.messages.read_answer", LOOP, "reads the decision"),
            ("usage.ledger.ledger.Ledger.record", TASK, "writes outcomes, in batches"),
        ),
    ),
    "wait": (
        "A wait, from the sensor to the trigger and back",
        (
            ("sensors.base.WaitSensor.execute", TASK, "polls once; wrong parameters and scopes fail here; then defers"),
            ("triggers.poll_loops.poll_until", TRIGGERER, "gets a token once for all; sleeps and polls until the deadline"),
            ("triggers.threads.run_in_thread", THREAD, "waits for a slot of the host, then polls, with a time limit"),
            ("sensors.base.WaitSensor.execute_complete", TASK, "turns the event into a result or an error"),
        ),
    ),
}
"""Name → title, and hops: the function below ``limio_limitrail``, where it runs, and what it does. A test imports each."""

PAPER, INK, LINE, FILL, SOFT = "#ffffff", "#1f2933", "#7b8794", "#e9e4f2", "#f5f3fa"
LANES = ("#e9e4f2", "#e2efe6", "#f7ecd9", "#dfe9f5", "#f5e1e1")
FONT = "font-family='DejaVu Sans, Verdana, sans-serif'"


def layers() -> list[list[str]]:
    """Return the packages of each layer, the topmost first."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    [found] = [contract["layers"] for contract in contracts if "limio_limitrail.hooks" in contract.get("layers", ())]
    return [[name.strip().removeprefix("limio_limitrail.") for name in layer.split("|")] for layer in found]


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


def packages() -> str:
    """Draw the packages: each may import from those below it."""
    width, high, gap, main = 1080, 62, 34, 800
    parts: list[str] = []
    for number, names in enumerate(layers()):
        y = 24 + number * (high + gap)
        each = (main - 16 * (len(names) - 1)) / len(names)
        for place, name in enumerate(names):
            x = 24 + place * (each + 16)
            parts += [box(x, y, each, high), text(x + each / 2, y + 26, name, size=15, weight="bold")]
            parts += [text(x + each / 2, y + 46, PACKAGES[name], size=11)]
        if number:
            parts.append(arrow(24 + main / 2, y - gap + 4, 24 + main / 2, y - 3))
    for number, name in enumerate(BESIDE):
        x, y = 24 + main + 40, 24 + number * (high + gap)
        parts += [box(x, y, 190, high, fill=SOFT), text(x + 95, y + 26, name, size=15, weight="bold")]
        parts += [text(x + 95, y + 46, PACKAGES[name], size=11)]
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


def path(name: str) -> str:
    """Draw the hops of a journey, one below the other, with the thread that each runs in."""
    title, hops = PATHS[name]
    width, high, gap, top = 1080, 40, 18, 64
    parts = [text(24, 34, title, size=16, weight="bold", anchor="start")]
    threads = list(dict.fromkeys(where for _, where, _ in hops))
    for number, (address, where, what) in enumerate(hops):
        y = top + number * (high + gap)
        parts += [box(24, y, 400, high, fill=LANES[threads.index(where) % len(LANES)])]
        parts += [text(224, y + 25, address.replace("__call__", "()"), size=12, weight="bold")]
        parts += [text(440, y + 18, what.replace("`", ""), size=12, anchor="start")]
        parts += [text(440, y + 34, where, size=10, anchor="start")]
        if number:
            parts.append(arrow(224, y - gap + 2, 224, y - 2))
    return page(width, top + len(hops) * (high + gap), parts)


def path_table(name: str) -> str:
    """Write the hops of a journey as a table."""
    rows = [
        f"| {number} | `{address}` | {where} | {what} |" for number, (address, where, what) in enumerate(PATHS[name][1], start=1)
    ]
    return "\n".join(["| | function below `limio_limitrail` | runs in | does |", "|---|---|---|---|", *rows, ""])


def with_tables(content: str) -> str:
    """Return the page of the journeys with its tables up to date."""
    return re.sub(
        r"(<!-- path: (\w+) -->\n).*?(?=<!-- end of path -->)",
        lambda found: found[1] + path_table(found[2]),
        content,
        flags=re.DOTALL,
    )


DRAWINGS = {
    "packages.svg": packages,
    "journeys.svg": journeys,
    **{f"journey-{name}.svg": partial(path, name) for name in PATHS},
}


def main() -> None:
    """Draw all."""
    for name, draw in DRAWINGS.items():
        (DOCS / "images" / name).write_text(draw())
    JOURNEYS_PAGE.write_text(with_tables(JOURNEYS_PAGE.read_text()))


if __name__ == "__main__":
    main()
