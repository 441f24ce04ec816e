# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Drivers' errors lose the values that they quote."""

from __future__ import annotations

import pytest

from limio_limitrail.landing.sql import LandingError
from limio_limitrail.landing.sql.errors import Diagnosis, before_values, guarded


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        ('invalid input syntax for type uuid: "canary"', "invalid input syntax for type uuid …"),
        ("Could not convert string 'canary' to INT32", "Could not convert string …"),
        ("bad `canary`\ncanary", "bad …"),
        ("value too long\nDETAIL: canary", "value too long …"),
    ],
)
def test_messages_are_cut_where_values_begin(message, kept):
    assert before_values(message) == kept


def test_the_drivers_error_is_not_even_the_context():
    def refuse():
        raise KeyError("canary")

    with pytest.raises(LandingError, match="no") as raised:
        guarded(refuse, refused=KeyError, describe=lambda _: Diagnosis(summary="no"))
    assert raised.value.__context__ is None
    assert raised.value.__cause__ is None


def test_what_is_no_drivers_error_passes():
    def refuse():
        raise KeyError("mine")

    with pytest.raises(KeyError):
        guarded(refuse, refused=OSError, describe=lambda _: Diagnosis(summary="no"))
