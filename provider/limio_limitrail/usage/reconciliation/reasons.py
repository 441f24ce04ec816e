# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Why rows and records differ: the most frequent reasons, in bounded memory."""

from __future__ import annotations

from collections import Counter, defaultdict

from limio_limitrail.usage.reconciliation.model import Finding, Kind
from limio_limitrail.usage.summary import MAX_DISTINCT, MAX_REASONS

_OTHERS = "other reasons"


class Reasons:
    """Counts the reasons of findings by kind, and keeps an example of each."""

    def __init__(self) -> None:
        self._counts: defaultdict[Kind, Counter[str]] = defaultdict(Counter)
        self._examples: dict[tuple[Kind, str], str] = {}

    def add(self, finding: Finding) -> None:
        """Count a finding."""
        counts = self._counts[finding.kind]
        text = ", ".join(filter(None, [_differing(finding), finding.reason])) or "no reason is known"
        if text not in counts and len(counts) >= MAX_DISTINCT:
            text = _OTHERS
        counts[text] += 1
        self._examples.setdefault((finding.kind, text), _example(finding))

    def texts(self) -> dict[str, list[str]]:
        """Return the most frequent reasons of each kind, for people: no values but those of key columns."""
        return {
            kind.value: [
                f"{count:,} x {text}; for example {self._examples[kind, text]}" for text, count in counts.most_common(MAX_REASONS)
            ]
            for kind, counts in self._counts.items()
        }


def _differing(finding: Finding) -> str:
    return f"other values of {', '.join(finding.members)}" if finding.members else ""


def _example(finding: Finding) -> str:
    row, record = finding.row, finding.record
    if row is not None:
        return f"row {row.row_key}"
    return f"record {record.id}" if record is not None and record.id is not None else "a record without an id"
