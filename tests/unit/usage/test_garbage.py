# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Garbage collections are as they were after rows have been sent, whatever became of them."""

from __future__ import annotations

import gc

import pytest

from limio_limitrail.usage.garbage import rare_collections


@pytest.fixture
def unfrozen():
    gc.unfreeze()
    yield
    gc.freeze()  # as the tests have it


@pytest.mark.usefixtures("unfrozen")
@pytest.mark.parametrize("fails", [False, True])
def test_all_is_as_it_was_afterwards(fails):
    before = gc.get_threshold(), gc.get_freeze_count()
    try:
        with rare_collections():
            assert gc.get_threshold()[0] > before[0][0]
            assert gc.get_freeze_count() > 10_000
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert (gc.get_threshold(), gc.get_freeze_count()) == before


def test_collections_that_somebody_has_switched_off_stay_off():
    before = gc.get_threshold()
    gc.set_threshold(0)
    try:
        with rare_collections():
            assert gc.get_threshold()[0] == 0
        assert gc.get_threshold()[0] == 0
    finally:
        gc.set_threshold(*before)
