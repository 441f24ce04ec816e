# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Rows of all kinds, an API in trouble, and moments at which a task is killed."""

from __future__ import annotations

import random
from collections import Counter

from limio_limitrail.emulator import EmulatorServer, Fault
from tests.support.usage import COMMIT, UsageRow, make_rows

STEPS = (
    ("before claiming", 4),
    ("after claiming", 40),
    ("before claim", 30),
    ("after claim", 25),
    ("before sending", 90),
    ("after sending", 150),
    ("before recording", 2),
    ("after recording", 2),
    ("before record", 2),
    ("after record", 3),
)


def mixed_rows(count: int) -> list[UsageRow]:
    """Rows of which some are denied, some rejected, some warned of and some cost a fee."""
    rows = []
    for number, (account, day, operation, amount) in enumerate(make_rows(count)):
        match (number + number // 100) % 50:
            case 7:
                amount = "1000.01"
            case 17:
                account = f"ghost-{number % 3}"
                day = f"{day}-{number}"
            case 27:
                operation = "EXPORT"
            case 37:
                amount = "900"
        rows.append((account, day, operation, amount))
    return rows


def add_troubles(server: EmulatorServer, *, seed: int) -> None:
    """Lost answers, refusals for being too many, and errors of the server."""
    server.faults.add(Fault("reset_after", COMMIT, times=None, share=0.02, seed=seed))
    server.faults.add(Fault("status", COMMIT, times=None, share=0.05, seed=seed + 1, status=429, headers={"Retry-After": "0"}))
    server.faults.add(Fault("status", COMMIT, times=None, share=0.02, seed=seed + 2, status=500))


def kills(count: int, *, seed: int, scale: float = 1.0) -> list[list[object]]:
    """Where to kill: every step once, at some place, and else after some time.

    :param scale: how late, compared with what suits ten thousand rows.
    """
    chance = random.Random(seed)
    steps = [[step, chance.randint(1, max(1, int(most * scale)))] for step, most in STEPS]
    times = [["seconds", round(chance.uniform(0.05, 1.2 * scale), 3)] for _ in range(count - len(steps))]
    found: list[list[object]] = [*steps, *times]
    chance.shuffle(found)
    return found


def expected_states(rows: list[UsageRow]) -> Counter[str]:
    states: Counter[str] = Counter()
    for account, _, _, amount in rows:
        ghost = account.startswith("ghost")
        states["rejected" if ghost else "denied" if float(amount) > 1000 else "committed"] += 1
    return states
