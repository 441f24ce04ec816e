# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What loads keep beside a table is about this table, not about one of its name in another schema."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql.masked_keys import MaskedKeyError, MaskedKeys
from limio_limitrail.landing.sql.model import OnMissing, Scope
from tests.support.databases import NOON

LIST = Scope(digest="1" * 16, text="one list", task="sync/one")


@pytest.fixture(params=["the search_path", "the name"])
def schemas(postgres: Any, request: pytest.FixtureRequest) -> Any:
    """Two schemas with a table of one name; what a load is given to write into one while the other is searched, too."""
    for schema in ("prod", "dev"):
        postgres.execute(f"CREATE SCHEMA {schema}")
        postgres.execute(f"CREATE TABLE {schema}.subs (id TEXT)")
    named = request.param == "the name"

    def into(schema: str, other: str) -> dict[str, Any]:
        hook = postgres.hook(options=f"-c search_path={other if named else schema},{schema if named else other}")
        return {"hook": hook, "table": f"{schema}.subs" if named else "subs"}

    return {"prod": into("prod", "dev"), "dev": into("dev", "prod")}


def pull(postgres: Any, where: Any, *, day: int, ids: list[str], **more: Any) -> Any:
    how = {"scope": LIST, "full_scan": True, "run": f"sync/one/day-{day}", "at": NOON + timedelta(day), **more}
    return postgres.land("merge", {"id": (Kind.TEXT, ids)}, **where, **how)


def test_missing_rows(postgres: Any, schemas: Any) -> None:
    pull(postgres, schemas["prod"], day=5, ids=["a"], on_missing=OnMissing.MARK)
    # In this table, nothing was loaded before: it does not matter that the other one has a later scan.
    pull(postgres, schemas["dev"], day=3, ids=["a", "b"], on_missing=OnMissing.MARK)
    assert postgres.query("SELECT id FROM dev.subs WHERE _deleted_at IS NULL ORDER BY id") == [("a",), ("b",)]
    assert postgres.query("SELECT id FROM prod.subs") == [("a",)]
    for schema in ("prod", "dev"):
        [(count,)] = postgres.query(f"SELECT count(*) FROM {schema}._limio_scopes")
        assert count == 1


def test_whole_pulls(postgres: Any, schemas: Any) -> None:
    pull(postgres, schemas["prod"], day=5, ids=["a"])
    pull(postgres, schemas["dev"], day=3, ids=["a"])
    for schema in ("prod", "dev"):
        [(count,)] = postgres.query(f"SELECT count(*) FROM {schema}._limio_whole_pulls")
        assert count == 1


def test_masked_keys(postgres: Any, schemas: Any) -> None:
    one, two = (MaskedKeys(columns=("id",), digest=digest) for digest in ("one", "two"))
    hashed = ["0" * 64]
    pull(postgres, schemas["prod"], day=1, ids=hashed, masked_keys=one)
    pull(postgres, schemas["dev"], day=1, ids=hashed, masked_keys=two)
    for schema, masked in (("prod", two), ("dev", one)):
        with pytest.raises(MaskedKeyError):
            pull(postgres, schemas[schema], day=2, ids=hashed, masked_keys=masked)


def test_a_history_and_a_table_of_its_name(postgres: Any) -> None:
    for schema in ("prod", "dev"):
        postgres.execute(f"CREATE SCHEMA {schema}")
    prod = {"hook": postgres.hook(options="-c search_path=prod,dev")}
    rows = {"id": (Kind.TEXT, ["a"])}
    postgres.land("history", rows, run="sync/one/day-1", at=NOON, **prod)
    postgres.execute("CREATE TABLE dev.subs AS SELECT * FROM prod.subs WHERE false")
    dev = {"hook": postgres.hook(options="-c search_path=dev,prod")}
    # A table of others that only has such columns.
    assert postgres.land("append", rows, run="sync/one/day-2", at=NOON + timedelta(1), **dev).inserted == 1
    postgres.execute("DROP TABLE dev.subs")
    postgres.execute("CREATE TABLE dev.subs (LIKE prod.subs)")
    assert postgres.land("history", rows, run="sync/one/day-3", at=NOON + timedelta(2), **dev).inserted == 1
    tables = "SELECT table_schema FROM information_schema.tables WHERE table_name = 'subs__seen' ORDER BY 1"
    assert postgres.query(tables) == [("dev",), ("prod",)]
