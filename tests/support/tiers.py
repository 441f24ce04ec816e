# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The two tiers of tests: what ``make test`` runs, and what only ``make test-all`` runs."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence

import pytest

EVERYTHING = os.environ.get("LIMIO_LIMITRAIL_TEST_ALL") == "1"
"""Whether both tiers run: ``make test-all``."""

Case = tuple[tuple[str, int], ...]


def covering(cases: Sequence[Case]) -> list[int]:
    """Return the positions of few cases that together have each value of each parameter at least once.

    :param cases: for each case its parameters, as pairs of a name and the value's position.
    """
    missing = {value for case in cases for value in case}
    uses: defaultdict[tuple[str, int], int] = defaultdict(int)
    chosen: set[int] = set()
    while missing:
        # Prefer values that are rarely used so far: a parameter of few values then meets many different others.
        best = max(
            (position for position in range(len(cases)) if position not in chosen),
            key=lambda position: (
                len(missing.intersection(cases[position])),
                -sum(uses[value] for value in cases[position]),
                -position,
            ),
        )
        chosen.add(best)
        missing.difference_update(cases[best])
        for value in cases[best]:
            uses[value] += 1
    return sorted(chosen)


def spread(positions: Sequence[int], count: int) -> list[int]:
    """Return at most `count` of the positions, evenly spread, the first and the last among them."""
    if count >= len(positions):
        return list(positions)
    if count == 1:
        return [positions[0]]
    return [positions[round(number * (len(positions) - 1) / (count - 1))] for number in range(count)]


def second_tier(items: Iterable[pytest.Item]) -> set[pytest.Item]:
    """Return the tests that ``make test`` leaves out: those marked `exhaustive`, and most cases of those marked `sampled`."""
    found = set()
    matrices: defaultdict[str, list[pytest.Function]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("exhaustive") is not None:
            found.add(item)
        elif isinstance(item, pytest.Function) and item.get_closest_marker("sampled") is not None and hasattr(item, "callspec"):
            matrices[item.nodeid.partition("[")[0]].append(item)
    for cases in matrices.values():
        marker = cases[0].get_closest_marker("sampled")
        assert marker is not None
        chosen = covering([tuple(item.callspec.indices.items()) for item in cases])
        [count] = marker.args or [len(chosen)]
        kept = set(spread(chosen, count))
        found.update(item for position, item in enumerate(cases) if position not in kept)
    return found
