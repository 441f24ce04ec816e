# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A merge by a masked key finds the rows again that it wrote; with another secret, or without the mask, it writes nothing."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Any

import pytest

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql.masked_keys import UNMASKED, MaskedKeyError, MaskedKeys
from tests.support.databases import NOON

pytestmark = pytest.mark.every_driver


def own(secret: str, *columns: str) -> MaskedKeys:
    return MaskedKeys(columns=columns or ("id",), digest=secret)


@pytest.fixture
def land(db: Any) -> Any:
    loads = iter(range(100))

    def load(masked: MaskedKeys, *, mode: str = "merge", ids: tuple[str, ...] = ("a", "b"), **more: Any) -> Any:
        """Load rows whose ids are hashed if the masks say so."""
        number = next(loads)
        values = [hashlib.sha256((masked.digest + one).encode()).hexdigest() if masked.columns else one for one in ids]
        rows = {"id": (Kind.TEXT, values), "x": (Kind.INTEGER, [1] * len(values))}
        return db.land(mode, rows, run=f"run-{number}", at=NOON + number * timedelta(hours=1), masked_keys=masked, **more)

    return load


def test_rows_of_another_secret_or_of_none_are_refused_and_their_own_are_found(db: Any, land: Any) -> None:
    assert land(own("one")).inserted == 2
    assert land(own("one")).unchanged == 2
    with pytest.raises(MaskedKeyError, match="the masked key 'id' of subs was made with another secret"):
        land(own("two"))
    with pytest.raises(MaskedKeyError, match="subs has rows whose key 'id' is masked, and that of the rows that come is not"):
        land(UNMASKED)
    assert land(own("one")).unchanged == 2
    assert len(db.rows()) == 2


def test_a_replace_without_the_mask_forgets_the_secret(db: Any, land: Any) -> None:
    land(own("one"))
    land(UNMASKED, mode="replace")
    with pytest.raises(MaskedKeyError, match="rows whose key 'id' is not masked"):
        land(own("one"))
    assert land(UNMASKED).unchanged == 2
    land(own("two"), mode="replace")
    assert land(own("two")).unchanged == 2
    assert len(db.rows()) == 2


def test_what_was_known_of_a_former_table_is_forgotten(db: Any, land: Any) -> None:
    land(own("one"))
    db.execute("DROP TABLE subs")
    assert land(UNMASKED).inserted == 2
    assert land(UNMASKED).unchanged == 2
    with pytest.raises(MaskedKeyError, match="is not masked"):
        land(own("one"))
    db.execute("DELETE FROM subs")
    assert land(own("two")).inserted == 2


def test_the_table_in_another_spelling_is_the_same(db: Any, land: Any) -> None:
    if db.postgres:
        pytest.skip("a name in another case is another table, unless it has no quotes")
    land(own("one"))
    with pytest.raises(MaskedKeyError, match="another secret"):
        land(own("two"), table="SUBS")
    assert land(own("one"), table="Subs").unchanged == 2


def test_an_append_neither_looks_at_keys_nor_changes_whose_they_are(db: Any, land: Any) -> None:
    land(own("one"))
    land(UNMASKED, mode="append", ids=("c",))
    assert land(own("one")).unchanged == 2
    assert len(db.rows()) == 3
