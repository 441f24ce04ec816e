# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Hypothesis for all tests: one profile for each tier, and how many examples a test asks for.

The examples are the same every time, and there is no deadline: a busy machine is no reason to fail.
Set LIMIO_LIMITRAIL_TEST_EXAMPLES to search for new ones; its value is also how many examples the journal's machine has.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

from tests.support.tiers import EVERYTHING

SEARCH = os.environ.get("LIMIO_LIMITRAIL_TEST_EXAMPLES")


def examples(number: int) -> int:
    """Return how many examples a test has in this tier: `number` in the second, a fifth of it, but 10 at least, in the first."""
    return number if EVERYTHING else min(number, max(10, number // 5))


def load_profile() -> None:
    """Register and load the profile of this tier, before any test is imported."""
    settings.register_profile(
        "tier",
        deadline=None,
        derandomize=SEARCH is None,
        database=None,
        max_examples=examples(100),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
    settings.load_profile("tier")
