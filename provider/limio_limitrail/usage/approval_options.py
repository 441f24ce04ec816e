# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a form about usage rows offers. Imports nothing: a Dag file that has a form loads it."""

from __future__ import annotations

KINDS = ("parked", "unknown", "sending", "rejected", "changed", "damaged")
"""The kinds of `usage.ledger.open_rows`."""

CARRY_OUT = "Carry out"
LEAVE_ALL = "Leave all as they are"
