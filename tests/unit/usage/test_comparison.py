# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The comparison of rows and records against a brute-force one, and what a single row and its records mean."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limio_limitrail.usage.ledger.kept_members import (
    HashKey,
    KeptHash,
    comparable,
    hash_value,
    keep_members,
    read_kept,
    same_kept,
)
from limio_limitrail.usage.ledger.states import Keep, State
from limio_limitrail.usage.reconciliation.comparison import Comparison, Range
from limio_limitrail.usage.reconciliation.model import Finding, Kind, Record, Row
from limio_limitrail.usage.reconciliation.scratch import Identity, Scratch, dump_values, match_key

SALT = "tenant"
VALUES = [
    "acme", "acme ", "Acme", "007", "7", 7, 7.0, Decimal("7.00"), "7.0", "1.10", "1.1", 1.1, True, 1, "true", "2026-01-01",
    "2026-01-01T00:00:00Z", "2026-01-01T01:00:00+01:00", "8f14e45f-ceea-5c2a-a3b1-2d7f6a1c9b10",
    "8F14E45FCEEA5C2AA3B12D7F6A1C9B10", "x" * 300, "x" * 301, {"a": 1.0}, {"a": 1}, [1], "Zo\u00eb", "Zoe\u0308",
    "True", False, "f",
]  # fmt: skip
DAY = Range(since=0, until=1000, read_at=2000, listed_before=1500)


def comparison(**more) -> Comparison:
    return Comparison(**{"range": DAY, "match": ("m",), "compare": ("c",), "salt": SALT, **more})


def row(value="acme", *, key="k", state="committed", kept=1, hashed=False, **more) -> Row:
    ours = comparable(value)
    ours = hash_value(ours, salt=SALT) if hashed else ours
    compared = {} if kept is None else {"c": kept}
    times = {"at": 100, "at_latest": 200, "last_at": 200}
    made = {"key": key, "operation": "o", "row_key": "{}", "state": state, "version": "v"}
    return Row(**{**made, **times, "matched": dump_values({"m": ours}), "compared": dump_values(compared), **more})


def record(value="acme", *, name="r", kept=1, at=150, **more) -> Record:
    return Record(id=name, at=at, matched=dump_values({"m": comparable(value)}), compared=dump_values({"c": kept}), **more)


def key_of(side: Row | Record) -> str | None:
    return match_key(list(read_kept(side.matched).values()), salt=SALT)


def found(rows, records) -> list[Finding]:
    with Scratch() as scratch:
        for one in rows:
            scratch.add_row(key_of(one), one)
        for one in records:
            scratch.add_record(Identity((one.id or "").encode(), (one.id or "").encode()), key_of(one), one)
        return [finding for group in scratch.groups() for finding in comparison().classify(*group)]


def components(rows, records):
    """Connect all pairs with one value, one by one."""
    parts = [({one.key}, set()) for one in rows] + [(set(), {one.id}) for one in records]
    for one, other in product(rows, records):
        if same_kept(read_kept(one.matched)["m"], read_kept(other.matched)["m"], salt=SALT):
            joined = [part for part in parts if one.key in part[0] or other.id in part[1]]
            parts = [part for part in parts if part not in joined]
            parts.append((set().union(*(part[0] for part in joined)), set().union(*(part[1] for part in joined))))
    return parts


SIDES = st.lists(st.tuples(st.sampled_from(VALUES), st.booleans()), max_size=6)


@given(SIDES, st.lists(st.sampled_from(VALUES), max_size=6))
def test_rows_and_records_are_joined_as_by_comparing_all_pairs(ours, theirs):
    rows = [row(value, key=f"k{number}", hashed=hashed) for number, (value, hashed) in enumerate(ours)]
    records = [record(value, name=f"r{number}") for number, value in enumerate(theirs)]
    findings = found(rows, records)
    kinds = {}
    for one in findings:
        for name in ({one.row.key} if one.row else set()) | ({one.record.id} if one.record else set()):
            kinds.setdefault(name, set()).add(one.kind)
    assert set(kinds) == {one.key for one in rows} | {one.id for one in records}
    for keys, ids in components(rows, records):
        wanted = {
            (0, 1): Kind.ONLY_THEIRS,
            (1, 0): Kind.ONLY_OURS,
            (1, 1): Kind.EQUAL,
        }.get((len(keys), len(ids)), Kind.TWICE_THERE if len(keys) == 1 else Kind.AMBIGUOUS)
        assert {kind for name in keys | ids for kind in kinds[name]} == {wanted}, (keys, ids)
    # Each row and each record is counted once, but for a row with several records.
    assert Counter(one.record.id for one in findings if one.record).total() == len(records)


def test_a_hash_compares_as_the_value_does():
    for one, other in product(map(comparable, VALUES), repeat=2):
        hashed = hash_value(one, salt=SALT)
        assert same_kept(hashed, other, salt=SALT) == same_kept(one, other, salt=SALT), (one, other)
        if same_kept(one, other, salt=SALT):
            assert match_key([hashed], salt=SALT) == match_key([other], salt=SALT) == match_key([one], salt=SALT)


@pytest.mark.parametrize("value", VALUES)
def test_what_the_ledger_keeps_is_the_value_that_it_reads_again(value):
    kept = read_kept(keep_members({"a": {"b": value}}, rules={"a.b": Keep.PLAIN}, key=HashKey(salt=SALT)))
    assert same_kept(kept["a.b"], comparable(value), salt=SALT)


@pytest.mark.parametrize(
    ("mine", "theirs", "kind", "proposal"),
    [
        (row(), [record()], Kind.EQUAL, None),
        (row(), [record(kept=2)], Kind.DIFFERENT, None),
        (row(kept=None), [record()], Kind.NOT_COMPARED, None),
        (row(), [record(stands="denied")], Kind.DIFFERENT, None),
        (row(), [record(stands="unclear")], Kind.DIFFERENT, None),
        (row(), [record(), record(name="s", stands="denied")], Kind.EQUAL, None),
        (row(), [record(), record(name="s")], Kind.TWICE_THERE, None),
        (row(), [], Kind.ONLY_OURS, None),
        (row(at=-5), [], Kind.OUTSIDE, None),
        (row(last_at=1600), [], Kind.NOT_LISTED_YET, None),
        (row(state="denied"), [], Kind.ABSENT, None),
        (row(state="denied"), [record(stands="denied")], Kind.EQUAL, None),
        *((row(state=state), [record()], Kind.UNEXPECTED_THERE, None) for state in ("denied", "rejected", "given_up")),
        # It would be sent once more.
        (row(state="free"), [record()], Kind.UNEXPECTED_THERE, "committed"),
        (row(state="free"), [record(kept=2)], Kind.UNEXPECTED_THERE, None),
        (row(state="free", kept=None), [record()], Kind.UNEXPECTED_THERE, None),
        (row(state="free"), [record(stands="unclear")], Kind.UNEXPECTED_THERE, None),
        (row(state="free"), [record(stands="denied")], Kind.EQUAL, None),
        # By its values, an older record may be another's.
        (row(state="parked", at=151), [record()], Kind.UNCERTAIN_THERE, None),
        (row(state="free", at=151), [record()], Kind.UNEXPECTED_THERE, None),
        (row(state="parked", at=150), [record()], Kind.UNCERTAIN_THERE, "committed"),
        (row(state="rejected", in_doubt=True), [record()], Kind.UNCERTAIN_THERE, "committed"),
        (row(state="parked"), [record()], Kind.UNCERTAIN_THERE, "committed"),
        (row(state="parked"), [record(stands="denied")], Kind.UNCERTAIN_THERE, "denied"),
        (row(state="parked"), [record(stands="unclear")], Kind.DIFFERENT, None),
        (row(state="parked"), [record(kept=2)], Kind.DIFFERENT, None),
        (row(state="parked"), [record(), record(name="s")], Kind.TWICE_THERE, None),
        (row(state="parked"), [], Kind.UNCERTAIN_MISSING, "send"),
        (row(state="sending"), [], Kind.UNCERTAIN_MISSING, "send"),
        (row(state="sending", is_alive=True), [], Kind.IN_FLIGHT, None),
        (row(state="comitted"), [], Kind.UNCERTAIN_MISSING, None),
        (row(state="parked", last_at=1600), [], Kind.UNCERTAIN_MISSING, None),
        (row(state="parked", last_at=None), [], Kind.UNCERTAIN_MISSING, None),
        (row(state="parked", at_latest=1200), [], Kind.UNCERTAIN_MISSING, None),
        (row(state="parked", at=-5), [], Kind.OUTSIDE, None),
    ],
)  # fmt: skip
def test_what_a_row_and_its_records_mean(mine, theirs, kind, proposal):
    findings = found([mine], theirs)
    assert {(finding.kind, finding.proposal) for finding in findings} == {(kind, proposal)}


def test_a_list_is_not_known_to_be_late_or_to_forget():
    never = comparison(range=Range(since=0, until=1000, read_at=2000))
    [finding] = never.classify([row(state="parked")], [])
    assert (finding.kind, finding.proposal) == (Kind.UNCERTAIN_MISSING, None)
    forgetful = comparison(range=Range(since=0, until=1000, read_at=2000, listed_before=2000, kept_from=150))
    assert [one.kind for one in forgetful.classify([row(), row(key="l", state="parked")], [])] == [Kind.OUTSIDE] * 2


def test_an_idempotency_key_needs_no_time():
    [finding] = comparison(by_key=True).classify([row(state="parked", at=151)], [record()])
    assert finding.proposal == "committed"


@pytest.mark.parametrize(
    ("mine", "at", "apart"),
    [
        (row(), 90, False), (row(), 89, True), (row(), 210, False), (row(), 211, True), (row(), None, False),
        (row(attempts=2), 0, False), (row(attempts=2), 211, True), (row(at=None), 0, False), (row(at_latest=None), 999, False),
    ],
)  # fmt: skip
def test_a_record_whose_time_is_none_of_the_row(mine, at, apart):
    assert mine.is_apart(record(at=at), margin=10) is apart


def test_no_state_is_forgotten():
    for state in State:
        [finding] = comparison().classify([row(state=state.value)], [])
        assert finding.kind in (Kind.ONLY_OURS, Kind.ABSENT, Kind.UNCERTAIN_MISSING)


def test_what_is_kept_names_no_value_that_is_hashed():
    text = keep_members({"a": "secret", "b": 1, "c": None}, rules=dict.fromkeys("abcd", Keep.HASH), key=HashKey(salt=SALT))
    assert "secret" not in text
    assert isinstance(read_kept(text)["a"], KeptHash)
    # Which members the body left out is kept, too: there, the list must have none, either.
    assert set(read_kept(text)) == {"a", "b", "c", "d"}
    assert read_kept(text)["d"] is None
