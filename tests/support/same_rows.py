# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Values of a key column that are one value in two forms, and values that only look alike."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

ID = uuid.UUID("0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9")
NOON = datetime(2026, 3, 1, 12)

SAME: dict[str, tuple[Any, Any]] = {
    "an integer and its text": (30, "30"),
    "a decimal and its text": (Decimal("1.5"), "1.50"),
    "a float and its text": (2.0, "2.0"),
    "a negative number and its text": (-7, "-7"),
    "a large integer and its text": (10**25, str(10**25)),
    "a float with an exponent": (1e22, "1e+22"),
    "a text that became an integer": ("0042", 42),
    "a text in a column of CHAR(10) that became an integer": ("43        ", 43),
    "a date and a timestamp at midnight": (date(2026, 1, 5), datetime(2026, 1, 5)),
    "a date and midnight in UTC": (date(2026, 1, 6), datetime(2026, 1, 6, tzinfo=UTC)),
    "a date and the text of midnight": (date(2026, 1, 7), "2026-01-07 00:00:00"),
    "a naive and an aware timestamp": (NOON, NOON.replace(tzinfo=UTC)),
    "an aware timestamp in another zone": (NOON, NOON.replace(hour=14, tzinfo=timezone(timedelta(hours=2)))),
    "a timestamp and its text": (datetime(2026, 3, 3, 12), "2026-03-03 12:00:00"),
    "a timestamp and its text with a T": (datetime(2026, 3, 4, 12, 30, 0, 500000), "2026-03-04T12:30:00.5"),
    "an instant and its text with a zone": (datetime(2026, 3, 5, 12, tzinfo=UTC), "2026-03-05 13:00:00+01"),
    "an instant and its text with UTC": (datetime(2026, 3, 6, 12, tzinfo=UTC), "2026-03-06 12:00:00 UTC"),
    "a uuid in capitals": (ID, str(ID).upper()),
    "a uuid without hyphens": (uuid.UUID(int=ID.int + 1), f"{ID.int + 1:032x}"),
    "a blank at the end": ("acme", "acme "),
    "blanks and an end of line": ("acme two", "acme two  \r\n"),
    "a blank that does not break": ("acme three", "acme three\u00a0"),
    "composed and decomposed": ("Zo\u00eb", "Zoe\u0308"),
    "a sign of its own for the same letter": ("\u212bngstr\u00f6m", "\u00c5ngstr\u00f6m"),
    "a boolean and a number": (True, 1),
    "false and its number": (False, 0),
    "true and its text": (True, "true"),
    "false and its text in capitals": (False, "FALSE"),
    "a long text with a blank at the end": ("x" * 300, "x" * 300 + " "),
}  # fmt: skip
"""Each pair is one row under two idempotency keys."""

DIFFERENT: dict[str, tuple[Any, Any]] = {
    "two numbers as texts": ("1.1", "1.10"),
    "zeros before a number, as texts": ("007", "7"),
    "an exponent, as texts": ("1e2", "100"),
    "two numbers": (5, 50),
    "capitals of a text": ("acme", "ACME"),
    "a uuid of other digits": (str(ID), str(uuid.UUID(int=ID.int + 9))),
    "an hour later": (datetime(2026, 3, 1, 12), datetime(2026, 3, 1, 13, tzinfo=UTC)),
    "a date and noon": (date(2026, 1, 5), datetime(2026, 1, 5, 12)),
    "a date and the next midnight": (date(2026, 1, 5), datetime(2026, 1, 6)),
    "a microsecond": (datetime(2026, 1, 5, 1, 1, 1, 1), "2026-01-05 01:01:01.000002"),
    "true and another number": (True, 2),
    "true and false": (True, "false"),
    "one and the text true": (1, "true"),
    "a blank within": ("a b", "ab"),
    "a day that is none": ("2026-02-30", "2026-03-02"),
    "long texts that begin alike": ("x" * 300, "x" * 301),
    "letters that look alike": ("\ufb01ne", "fine"),
    "a number and a text that begins with it": (5, "5a"),
}
