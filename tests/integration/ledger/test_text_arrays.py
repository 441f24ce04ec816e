# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Keys go to Postgres as one text, which it reads as an array."""

from __future__ import annotations

import pytest

from limio_limitrail.usage.ledger.sql import text_array

KEYS = ["7f1d8a52-6f0e-5a57-9a0b-0d5a7c3d9e41", "", "NULL", "null", 'a"b', "a\\b", "a,b", "{a}", " a ", "'", "a\nb", "ä€𝄞", "%s"]


@pytest.mark.parametrize("keys", [[], ["a"], KEYS, [*KEYS, *KEYS]], ids=["none", "one", "all", "twice"])
def test_each_key_comes_as_it_is(postgres, keys):
    found = postgres.hook().get_records("SELECT unnest(CAST(%s AS text[]))", parameters=[text_array(keys)])
    assert [key for (key,) in found] == keys
