# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Random pulls of several lists into one table, late, early, twice and killed, against a model of which list has which row."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql.model import OnMissing, Scope
from tests.support.databases import NOON, Database, kept_open
from tests.support.strategies import examples

KEYS = ("a", "b", "c", "d")
SCOPES = {
    name: Scope(digest=f"{number:016x}", text=name, task=f"sync/{name}", is_only_list=True)
    for number, name in enumerate(("one", "two", "keeps"))
}
Emptied = Callable[..., AbstractContextManager[Database]]


@dataclass(frozen=True)
class Pull:
    scope: str
    day: int
    """When it began."""
    rows: dict[str, str]
    full: bool
    killed: bool = False


@dataclass
class Row:
    value: str
    day: int
    members: set[str] = field(default_factory=set)
    marked: int | None = None


@dataclass
class Model:
    """The table, and of each list the last pull and the last full scan that judged."""

    policies: dict[str, str]
    rows: dict[str, Row] = field(default_factory=dict)
    loaded: dict[str, int] = field(default_factory=dict)
    scanned: dict[str, int] = field(default_factory=dict)
    read: dict[str, int] = field(default_factory=dict)
    """The last pull of the whole list."""

    def load(self, pull: Pull) -> dict[str, Any]:
        counts = dict.fromkeys(("inserted", "updated", "unchanged", "outdated", "deleted", "marked", "returned"), 0)
        policy, scan = self.policies[pull.scope], self.scanned.get(pull.scope)
        superseded = scan is not None and pull.day < scan
        judges = policy != "keep" and pull.full and pull.day >= self.loaded.get(pull.scope, 0)
        if judges and not superseded:
            for key in [key for key, row in self.rows.items() if pull.scope in row.members and key not in pull.rows]:
                row = self.rows[key]
                row.members.remove(pull.scope)
                if row.members:
                    continue
                if policy == "delete":
                    del self.rows[key]
                    counts["deleted"] += 1
                else:
                    row.marked = pull.day
                    counts["marked"] += 1
        for key, value in pull.rows.items():
            row = self.rows.get(key)
            if row is None:
                if superseded and policy == "delete":
                    counts["outdated"] += 1
                    continue
                members = set() if superseded else {pull.scope}
                self.rows[key] = Row(value=value, day=pull.day, members=members, marked=scan if superseded else None)
                counts["inserted"] += 1
                continue
            if not superseded:
                row.members.add(pull.scope)
                counts["returned"] += row.marked is not None
                row.marked = None
            if row.value == value:
                counts["unchanged"] += 1
            elif row.day > pull.day or any(self.read.get(scope, 0) > pull.day for scope in row.members):
                counts["outdated"] += 1
            else:
                row.value, row.day = value, pull.day
                counts["updated"] += 1
        self.loaded[pull.scope] = max(pull.day, self.loaded.get(pull.scope, 0))
        if pull.full:
            self.read[pull.scope] = max(pull.day, self.read.get(pull.scope, 0))
        if judges and not superseded:
            self.scanned[pull.scope] = pull.day
        return counts | {"missing_checked": judges and not superseded}

    def content(self) -> dict[str, tuple[str, set[str], int | None]]:
        return {key: (row.value, row.members, row.marked) for key, row in self.rows.items()}


def content(db: Database) -> dict[str, tuple[str, set[str], int | None]]:
    names = {scope.digest: name for name, scope in SCOPES.items()}
    days = {(NOON + timedelta(day)).strftime("%Y-%m-%d"): day for day in range(100)}
    return {
        row["id"]: (
            row["v"],
            {names[digest] for digest in row["_sources"].strip("|").split("|") if digest},
            days[row["_deleted_at"][:10]] if row.get("_deleted_at") else None,
        )
        for row in db.rows()
    }


def land(db: Database, pull: Pull, *, policy: str, **more: Any) -> Any:
    part = {"id": (Kind.TEXT, list(pull.rows)), "v": (Kind.TEXT, list(pull.rows.values()))}
    return db.land(
        "merge",
        *([part] if pull.rows else []),
        run=f"sync/{pull.scope}/day-{pull.day}",
        at=NOON + timedelta(pull.day),
        scope=SCOPES[pull.scope],
        on_missing=OnMissing(policy),
        full_scan=pull.full,
        **more,
    )


@st.composite
def pulls(draw: st.DrawFn) -> tuple[dict[str, str], list[Pull]]:
    policies = {name: draw(st.sampled_from(["mark", "delete"])) for name in ("one", "two")} | {"keeps": "keep"}
    # It makes the table, and the columns that those that keep their rows would not make.
    first = Pull(scope="one", day=0, rows=draw(lists(least=1)), full=True)
    drawn = draw(
        st.lists(
            st.builds(
                Pull,
                scope=st.sampled_from(["one", "one", "two", "keeps"]),
                day=st.just(0),
                rows=lists(),
                full=st.sampled_from([True, True, True, False]),
                killed=st.sampled_from([False, False, False, True]),
            ),
            min_size=2,
            max_size=6,
        )
    )
    days = draw(st.permutations(range(1, len(drawn) + 1)))
    late = [replace(pull, day=day) for pull, day in zip(drawn, days, strict=True)]
    again = draw(st.lists(st.sampled_from(late), max_size=2))
    return policies, [first, *late, *again]


def lists(*, least: int = 0) -> st.SearchStrategy[dict[str, str]]:
    return st.dictionaries(st.sampled_from(KEYS), st.sampled_from(["x", "x", "y"]), min_size=least, max_size=len(KEYS))


@pytest.fixture(params=["duckdb", "sqlite", "psycopg3"])
def emptied(request: pytest.FixtureRequest, opened: Any, file_database: Any, tmp_path: Path) -> Emptied:
    """A maker of empty databases, of which the model's test needs many; of Postgres also while pages come."""
    if request.param == "psycopg3":
        db = opened("psycopg3")

        @contextlib.contextmanager
        def maker(*, while_pulling: bool = False) -> Iterator[Database]:
            db.execute("DROP TABLE IF EXISTS subs", "DROP TABLE IF EXISTS _limio_scopes")
            yield replace(db, staging=tmp_path / "staged" if while_pulling else None)

        return maker

    @contextlib.contextmanager
    def file_maker(*, while_pulling: bool = False) -> Iterator[Database]:
        with tempfile.TemporaryDirectory() as folder, kept_open(file_database(request.param, folder=Path(folder))) as db:
            yield db

    return file_maker


class KilledError(Exception):
    pass


def kill(rows: int) -> None:
    raise KilledError


@pytest.mark.exhaustive
@settings(max_examples=examples(40))
@given(drawn=pulls(), while_pulling=st.booleans())
def test_the_table_is_what_the_model_says(
    emptied: Emptied, drawn: tuple[dict[str, str], list[Pull]], while_pulling: bool
) -> None:
    policies, loads = drawn
    with emptied(while_pulling=while_pulling) as db:
        model = Model(policies)
        for pull in loads:
            if pull.killed and pull.rows:
                before = content(db) if db.exists() else None
                with pytest.raises(KilledError):
                    land(db, pull, policy=policies[pull.scope], progress=kill)
                assert before is None or content(db) == before
            result = land(db, pull, policy=policies[pull.scope])
            expected = model.load(pull)
            assert {name: getattr(result, name) for name in expected} == expected
            assert content(db) == model.content()
        final = max(pull.day for pull in loads) + 1
        lasting = {key for key, row in model.rows.items() if "keeps" in row.members}
        last = {name: dict.fromkeys(KEYS[at : at + 2], "x") for at, name in enumerate(("one", "two"))}
        for name, rows in last.items():
            land(db, Pull(scope=name, day=final, rows=rows, full=True), policy=policies[name])
        there = {key for key, (_, _, marked) in content(db).items() if marked is None}
        assert there == lasting | {key for rows in last.values() for key in rows}


SLOW = pytest.mark.exhaustive


@pytest.mark.parametrize(
    "emptied", ["sqlite", pytest.param("duckdb", marks=SLOW), pytest.param("psycopg3", marks=SLOW)], indirect=True
)
@settings(max_examples=examples(30))
@given(drawn=pulls(), order=st.randoms(use_true_random=False))
def test_full_scans_leave_the_same_rows_in_any_order(
    emptied: Emptied, drawn: tuple[dict[str, str], list[Pull]], order: Any
) -> None:
    policies, loads = drawn
    # Of two lists that lack a row, the last one decides what is done with it.
    policies["two"] = policies["one"]
    first = Pull(scope="one", day=0, rows=dict.fromkeys(KEYS, "x"), full=True)
    loads = [replace(pull, full=True, rows=dict.fromkeys(pull.rows, "x")) for pull in loads[1:]]
    found = []
    for _ in range(2):
        with emptied() as db:
            for pull in [first, *loads]:
                land(db, pull, policy=policies[pull.scope])
            found.append({key: (members, marked is None) for key, (_, members, marked) in content(db).items()})
        order.shuffle(loads)
    assert found[0] == found[1]
