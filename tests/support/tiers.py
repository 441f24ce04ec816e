# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The two tiers of tests: what ``make test`` runs, and what only ``make test-all`` runs."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import pytest

EVERYTHING = os.environ.get("LIMIO_LIMITRAIL_TEST_ALL") == "1"
"""Whether both tiers run: ``make test-all``."""

Case = tuple[tuple[str, int], ...]


def covering(cases: Sequence[Case]) -> list[int]:
    """Return the positions of few cases that together have each value of each parameter at least once.

    :param cases: for each case its parameters, as pairs of a name and the value's identity: cases share their values.
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


def matrices(items: Iterable[pytest.Item], *, marker: str) -> Iterator[tuple[pytest.Mark, list[pytest.Function], list[int]]]:
    """Yield of each parametrized test with the marker: the marker, its cases, and the positions of a `covering` few."""
    found: defaultdict[str, list[pytest.Function]] = defaultdict(list)
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker(marker) is not None and hasattr(item, "callspec"):
            found[item.nodeid.partition("[")[0]].append(item)
    for cases in found.values():
        mark = cases[0].get_closest_marker(marker)
        assert mark is not None
        yield mark, cases, covering([tuple((name, id(value)) for name, value in item.callspec.params.items()) for item in cases])


def beyond_covering(items: Iterable[pytest.Item]) -> set[pytest.Item]:
    """Return the cases that no tier runs: of tests marked `covering`, those that add only another combination of values."""
    found: set[pytest.Item] = set()
    for _, cases, chosen in matrices(items, marker="covering"):
        found.update(item for position, item in enumerate(cases) if position not in set(chosen))
    return found


def second_tier(items: Sequence[pytest.Item]) -> set[pytest.Item]:
    """Return the tests that ``make test`` leaves out: those marked `exhaustive`, and most cases of those marked `sampled`."""
    found = {item for item in items if item.get_closest_marker("exhaustive") is not None}
    for marker, cases, chosen in matrices([item for item in items if item not in found], marker="sampled"):
        [count] = marker.args or [len(chosen)]
        kept = set(spread(chosen, count))
        found.update(item for position, item in enumerate(cases) if position not in kept)
    return found
