# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The table of formats has the numbers of the code."""

from __future__ import annotations

from pathlib import Path

from limio_limitrail.landing import checkpoint as state
from limio_limitrail.landing import last_run, manifest
from limio_limitrail.polling import events, poll, watch_state
from limio_limitrail.sensors import base
from limio_limitrail.transfers import partitions
from limio_limitrail.transfers import state as watermark
from limio_limitrail.triggers.base import KWARGS_FORMAT
from limio_limitrail.usage.ledger import run_history, table

NUMBERS = {
    "usage ledger": table.FORMAT,
    "last runs of a usage task": run_history.FORMAT,
    "idempotency keys": "",
    "manifest": manifest.FORMAT_VERSION,
    "last run of a pull into files": last_run.FORMAT_VERSION,
    "checkpoint of a pull": state.FORMAT_VERSION,
    "partitions that a run has touched": partitions.FORMAT_VERSION,
    "watermark and ranges of runs": watermark.FORMAT_VERSION,
    "failure count of a sensor in `reschedule` mode": base.FAILURES_FORMAT,
    "trigger of a wait": KWARGS_FORMAT,
    "event of such a trigger": poll.EVENT_FORMAT,
    "trigger of a watch": KWARGS_FORMAT,
    "position of a watch": watch_state.FORMAT,
    "event of a watch": events.FORMAT,
    "which run has which event": events.FORMAT,
}


def test_the_table_of_formats() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "explanation" / "semantics.md").read_text()
    section = page.partition("## Formats and versions")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("| ")][1:]
    assert {cells[0].strip(): cells[2].strip() for cells in rows} == {name: str(number) for name, number in NUMBERS.items()}
