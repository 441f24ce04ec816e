# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""How far a watch has come, held against a model of a list that does all that lists do."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.api.resource import Resource
from limio_limitrail.limio.resources import RESOURCES
from limio_limitrail.polling import watch_state as position_module
from limio_limitrail.polling.changes import RecordFingerprint, fingerprint_of
from limio_limitrail.polling.watch_state import FAR_FUTURE, IDLE, MAX_REMEMBERED, Watermark
from tests.support.strategies import examples

START = datetime(2026, 10, 1, 12, tzinfo=UTC)
OVERLAP = timedelta(seconds=60)
TIMED = Resource(name="things", path="/things", time_column="updated")
TIMELESS = Resource(name="things", path="/things")


def record(number: int, when: datetime | None = None, **more: Any) -> dict[str, Any]:
    return {"id": f"r{number}", "updated": when and when.isoformat(), **more}


def see(*records: dict[str, Any], resource: Resource = TIMED) -> tuple[RecordFingerprint, ...]:
    return tuple(fingerprint_of(one, api="Limio", resource=resource) for one in records)


def through_json(position: Watermark) -> Watermark:
    return Watermark.from_json(json.loads(json.dumps(position.to_json())))


# -- a model -------------------------------------------------------------------------------------------------------


@dataclass
class World:
    """A list, one who watches it, and what must be emitted by the words of the promise alone."""

    resource: Resource
    now: datetime = START
    records: list[dict[str, Any]] = field(default_factory=list)
    times: set[datetime] = field(default_factory=set)
    shown_twice: set[int] = field(default_factory=set)
    position: Watermark | None = None
    newest: datetime | None = None
    emitted: list[tuple[str, str]] = field(default_factory=list)
    due: set[tuple[str, str]] = field(default_factory=set)
    known: set[tuple[str, str]] = field(default_factory=set)
    truncated: bool = False
    refused: int = 0

    def version(self, one: dict[str, Any]) -> tuple[str, str]:
        """What tells a record's states apart: its time, or its content where it has none that can be read."""
        return one["id"], one["updated"] if self.time_of(one) else f"content {one['content']}"

    def time_of(self, one: dict[str, Any]) -> datetime | None:
        return datetime.fromisoformat(one["updated"]) if self.resource.time_column and one["updated"] else None

    def put(self, age: timedelta | None, *, index: int | None = None) -> None:
        """Add a record, or change one. Two changes within a moment are one: a version is what has a time of its own."""
        when = None if age is None else self.now - age
        while when is not None and when in self.times:
            when += timedelta(microseconds=1)
        if when is not None:
            self.times.add(when)
        made = record(len(self.records) if index is None else index, when, content=len(self.known) + len(self.records))
        if index is None:
            self.records.append(made)
        else:
            self.records[index] = made

    def look(self, *, stored: bool) -> None:
        listed = [one for number, one in enumerate(self.records) for _ in range(2 if number in self.shown_twice else 1)]
        begun = self.position is not None
        position = self.position or Watermark(changed_after=START - OVERLAP if self.resource.time_column else None)
        covered = [
            one
            for one in listed
            if not (when := self.time_of(one)) or position.changed_after is None or when >= position.changed_after
        ]
        seen = see(*covered, resource=self.resource)
        try:
            moved = position.advance(seen, overlap=OVERLAP, now=self.now)
        except ParameterError:
            self.refused += 1
            return
        names = {fingerprint.digest: self.version(one) for fingerprint, one in zip(seen, covered, strict=True)}
        if begun:
            self.emitted += [names[one.digest] for one in position.changes(seen)]
        self.truncated |= moved.truncated
        for one in listed:
            when = self.time_of(one)
            in_time = when is None or (when >= START - OVERLAP and (self.newest is None or when >= self.newest - OVERLAP))
            if self.version(one) not in self.known and in_time and begun:
                self.due.add(self.version(one))
            self.known.add(self.version(one))
        times = [min(when, self.now) for one in listed if (when := self.time_of(one))]
        self.newest = max([*times, *([self.newest] if self.newest else [])], default=None)
        self.position = through_json(moved) if stored else moved


NOW, FAR_AHEAD = timedelta(0), -timedelta(days=400)
AGES = st.one_of(
    st.just(timedelta(0)),
    st.timedeltas(timedelta(0), OVERLAP),
    st.timedeltas(timedelta(0), 4 * OVERLAP),
    st.timedeltas(-3 * OVERLAP, timedelta(0)),
    st.sampled_from([-timedelta(hours=2), -timedelta(days=400), -timedelta(days=365 * 7000), timedelta(days=365 * 100)]),
    st.none(),
)
STEPS = st.one_of(
    st.tuples(st.just("add"), AGES),
    st.tuples(st.just("add"), AGES),
    st.tuples(st.just("change"), AGES, st.integers(0, 30)),
    st.tuples(st.just("twice"), st.integers(0, 30)),
    st.tuples(st.just("pass"), st.timedeltas(timedelta(0), 2 * OVERLAP)),
    st.tuples(st.just("look"), st.booleans()),
    st.tuples(st.just("look"), st.booleans()),
)


def play(steps: list[Any], resource: Resource) -> World:
    world = World(resource=resource)
    for what, *how in steps:
        if what == "add":
            world.put(how[0])
        elif what == "change" and world.records:
            world.put(how[0], index=how[1] % len(world.records))
        elif what == "twice":
            world.shown_twice.add(how[0])
        elif what == "pass":
            world.now += how[0]
        elif what == "look":
            world.look(stored=how[0])
    world.look(stored=True)
    return world


@settings(max_examples=examples(400))
@given(st.lists(STEPS, max_size=40))
def test_each_version_is_emitted_once(steps):
    world = play(steps, TIMED)
    assert not world.truncated
    assert len(world.emitted) == len(set(world.emitted))
    assert set(world.emitted) == world.due


@settings(max_examples=examples(100))
@given(st.lists(STEPS, max_size=40))
def test_lists_that_tell_no_time(steps):
    world = play(steps, TIMELESS)
    assert sorted(world.emitted) == sorted(world.due)


@settings(max_examples=examples(400))
@given(st.lists(STEPS, max_size=60), st.integers(1, 5))
@example([("look", False), ("add", FAR_AHEAD), ("look", False), ("change", NOW, 0), ("look", False), ("change", FAR_AHEAD, 0)], 1)
@example([("add", FAR_AHEAD), ("look", False), ("change", NOW, 0), ("look", False), ("change", FAR_AHEAD, 0)], 2)
def test_a_position_that_cannot_remember_all_repeats_nothing(steps, most):
    with mock.patch.object(position_module, "MAX_REMEMBERED", most):
        world = play(steps, TIMED)
    assert len(world.emitted) == len(set(world.emitted))
    assert world.position is None or len(world.position.remembered) <= most
    if not world.truncated and not world.refused:
        assert set(world.emitted) == world.due


@settings(max_examples=examples(200))
@given(st.lists(STEPS, max_size=40))
def test_no_time_blinds_a_watch(steps):
    """Whatever a list has shown: what appears now is seen by the next look."""
    world = play(steps, TIMED)
    world.put(timedelta(0))
    world.look(stored=True)
    assert world.emitted[-1] == world.version(world.records[-1])


@settings(max_examples=examples(100))
@given(st.lists(STEPS, max_size=40))
def test_written_and_read(steps):
    position = play(steps, TIMED).position
    assert position is not None
    assert through_json(position) == position
    assert json.dumps(through_json(position).to_json()) == json.dumps(position.to_json())


# -- bounds --------------------------------------------------------------------------------------------------------


def test_it_stays_small():
    seen = {2**64 - 1 - number: 2**32 - 1 for number in range(MAX_REMEMBERED)}
    position = Watermark(changed_after=datetime(9998, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), remembered=seen)
    assert len(json.dumps(position.to_json())) < 64 * 1024
    assert through_json(position) == position


def test_more_than_it_can_remember():
    """The floor rises; what lies above it is still remembered."""
    records = [record(number, START - timedelta(seconds=number / 100)) for number in range(MAX_REMEMBERED + 1000)]
    position = Watermark(changed_after=START - OVERLAP)
    moved = through_json(position.advance(see(*records), overlap=OVERLAP, now=START))
    assert len(position.changes(see(*records))) == MAX_REMEMBERED + 1000
    assert len(moved.remembered) <= MAX_REMEMBERED
    assert moved.changes(see(*records)) == ()
    assert position.advance(see(*records), overlap=OVERLAP, now=START).truncated
    assert len(moved.changes(see(record(-1, START)))) == 1
    again = moved.advance(see(*records[:100]), overlap=OVERLAP, now=START)
    assert (again.truncated, again.remembered.keys() >= {one.digest for one in see(*records[:100])}) == (False, True)


def test_too_many_that_tell_no_time():
    position = Watermark(changed_after=None)
    many = see(*({"id": number} for number in range(MAX_REMEMBERED + 1)), resource=TIMELESS)
    assert len(position.advance(many[:-1], overlap=OVERLAP, now=START).remembered) == MAX_REMEMBERED
    with pytest.raises(ParameterError, match=r"more than 3,000 records without a time.*Narrow it with query_params"):
        position.advance(many, overlap=OVERLAP, now=START)


@pytest.mark.parametrize("when", [datetime(9999, 12, 31, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC), START + 2 * FAR_FUTURE])
def test_many_of_the_far_future(when):
    """They are remembered while they are shown; too many are an error, and no reason to see nothing else any more."""
    position = Watermark(changed_after=START - OVERLAP)
    many = see(*(record(number, when) for number in range(MAX_REMEMBERED + 1)))
    with pytest.raises(ParameterError, match="later than tomorrow"):
        position.advance(many, overlap=OVERLAP, now=START)
    moved = through_json(position.advance(many[1:], overlap=OVERLAP, now=START))
    fresh = see(record(-1, START))
    assert moved.changes((*many[1:], *fresh)) == fresh
    assert not moved.truncated


@pytest.mark.parametrize("count", [MAX_REMEMBERED, MAX_REMEMBERED + 1, 2 * MAX_REMEMBERED])
@pytest.mark.parametrize("ahead", [timedelta(seconds=2), timedelta(hours=2), timedelta(hours=20)])
def test_many_of_the_near_future(count, ahead):
    """The floor never rises above now, where it would hide what comes from now on."""
    many = see(*(record(number, START + ahead + timedelta(milliseconds=number)) for number in range(count)))
    position = Watermark(changed_after=START - OVERLAP)
    if count > MAX_REMEMBERED:
        with pytest.raises(ParameterError, match="more than 3,000 records with a time in the future, which is too many to watch"):
            position.advance(many, overlap=OVERLAP, now=START)
        # Some of them have come true.
        now = START + ahead + timedelta(seconds=MAX_REMEMBERED / 1000 + 4)
        assert position.advance(many, overlap=OVERLAP, now=now).truncated
        return
    moved = through_json(position.advance(many, overlap=OVERLAP, now=START))
    fresh = see(record(-1, START + timedelta(seconds=1)))
    assert (moved.truncated, moved.changes((*many, *fresh))) == (False, fresh)


def test_many_of_a_clock_that_is_ahead():
    """Of an API whose local time counts as UTC: as many as can be remembered are no reason to end."""
    ahead = START + timedelta(hours=2)
    many = see(*(record(number, ahead - timedelta(seconds=3 * number)) for number in range(2 * MAX_REMEMBERED)))
    moved = Watermark(changed_after=START - OVERLAP).advance(many, overlap=OVERLAP, now=START)
    assert (moved.truncated, moved.changes(many)) == (False, ())
    assert moved.changed_after == START - OVERLAP
    assert len(moved.changes(see(record(-1, ahead)))) == 1


def test_a_future_time_that_comes_true():
    """It becomes a time like others, and is not emitted for that."""
    future = see(record(1, START + 2 * FAR_FUTURE))
    position = Watermark(changed_after=START - OVERLAP).advance(future, overlap=OVERLAP, now=START)
    for days in (0.5, 1.5, 2.5, 3):
        now = START + days * FAR_FUTURE
        assert position.changes(future) == ()
        position = through_json(position.advance(future, overlap=OVERLAP, now=now))
    assert position.changed_after == START + 3 * FAR_FUTURE - IDLE
    assert position.changes(future) == ()


def test_what_it_forgets():
    position = Watermark(changed_after=START - OVERLAP).advance(see(record(1, START)), overlap=OVERLAP, now=START)
    later = START + 10 * OVERLAP
    moved = position.advance(see(record(2, later)), overlap=OVERLAP, now=later)
    assert moved.changed_after == later - OVERLAP
    assert len(moved.remembered) == 1
    assert moved.advance((), overlap=OVERLAP, now=later + OVERLAP) == moved


def test_a_record_that_a_look_does_not_show_is_not_forgotten():
    position = Watermark(changed_after=START - OVERLAP).advance(see(record(1, START)), overlap=OVERLAP, now=START)
    moved = position.advance((), overlap=OVERLAP, now=START)
    assert moved.changes(see(record(1, START))) == ()


def test_no_overlap_at_all():
    position = Watermark(changed_after=START).advance(see(record(1, START)), overlap=timedelta(0), now=START)
    assert position.changes(see(record(1, START), record(2, START), record(3, START - timedelta(microseconds=1)))) == see(
        record(2, START)
    )


@pytest.mark.parametrize(
    "broken",
    [
        {"changed_after": None, "remembered": "no base85 \x00"},
        {"changed_after": None, "remembered": "0000"},
        {"changed_after": "yesterday", "remembered": ""},
    ],
)
def test_what_is_no_position(broken):
    with pytest.raises(ValueError):
        Watermark.from_json(broken)


# -- sightings -----------------------------------------------------------------------------------------------------


def digest(one: dict[str, Any], resource: Resource = TIMED) -> int:
    return fingerprint_of(one, api="Limio", resource=resource).digest


def test_a_record_is_its_key_and_its_time():
    one = record(1, START, name="a")
    assert digest(one) == digest({**one, "name": "b", "more": [1]})
    assert digest(one) == digest(dict(reversed(one.items())))
    assert digest(one) != digest(record(2, START))
    assert digest(one) != digest(record(1, START + timedelta(microseconds=1)))
    assert digest({**one, "updated": "2026-10-01T12:00:00.0000001Z"}) != digest(
        {**one, "updated": "2026-10-01T12:00:00.0000002Z"}
    )
    assert 0 <= digest(one) < 2**64


def test_without_a_time_all_of_it_counts():
    one = {"id": "a", "of": {"x": 1, "y": [1, 2]}}
    assert digest(one, TIMELESS) == digest({"of": {"y": [1, 2], "x": 1}, "id": "a"}, TIMELESS)
    assert digest(one, TIMELESS) != digest({"id": "a", "of": {"x": 1, "y": [2, 1]}}, TIMELESS)
    assert digest(one, TIMELESS) != digest({**one, "z": None}, TIMELESS)
    for time in (None, "yesterday", 7, {}, "0001-01-01T00:00:00+10:00", "9999-12-31T23:59:59-10:00"):
        fingerprint = fingerprint_of({"id": "a", "updated": time, "n": 1}, api="Limio", resource=TIMED)
        assert fingerprint.when is None
        assert fingerprint.digest != digest({"id": "a", "updated": time, "n": 2})


@pytest.mark.parametrize("key", [None, ""])
def test_records_that_lack_their_key(key):
    """Of two of the same second, both count."""
    first, second = {"id": key, "updated": START.isoformat(), "n": 1}, {"id": key, "updated": START.isoformat(), "n": 2}
    assert digest(first) != digest(second)
    del first["id"], second["id"]
    assert digest(first) != digest(second)
    assert fingerprint_of(first, api="Limio", resource=TIMED).when == START
    keyless = replace(TIMED, primary_key=())
    assert digest(first, keyless) != digest(second, keyless)
    assert fingerprint_of(first, api="Limio", resource=keyless).identity == ""


def test_keys_that_look_alike():
    two = replace(TIMED, primary_key=("kind", "number"))
    pairs = [("a/b", "c"), ("a", "b/c"), ("a", 1), ("a", "1"), ("x" * 300, "1"), ("x" * 300, "2"), ("a", None), (None, "a")]
    found = {digest({"kind": kind, "number": number, "updated": START.isoformat()}, two) for kind, number in pairs}
    assert len(found) == len(pairs)
    fingerprint = fingerprint_of({"kind": "small", "number": 7, "updated": START.isoformat()}, api="Limio", resource=two)
    assert fingerprint.identity == "small/7"


def test_texts_of_any_kind():
    for text in ("\ud800", "\udfff\ud800", "\U0001f600", "\u00e9", "\0", "x" * 10_000):
        one = fingerprint_of({"id": text, "updated": START.isoformat()}, api="Limio", resource=TIMED)
        assert one.digest == digest({"id": text, "updated": START.isoformat()})
        assert len(one.identity) <= 200
        assert digest({"id": "a", "text": text}, TIMELESS) != digest({"id": "a", "text": "a"}, TIMELESS)


def test_times_deep_in_a_record():
    catalog = RESOURCES["published_catalog.offers2"]
    one = {"path": "/offers2/a", "data": {"modified": "2026-10-01T14:00:00+02:00"}}
    fingerprint = fingerprint_of(one, api="Limio", resource=catalog)
    assert (fingerprint.identity, fingerprint.when) == ("/offers2/a", START)
    assert (
        fingerprint.digest
        != fingerprint_of({**one, "data": {"modified": "2026-10-01T14:00:01+02:00"}}, api="Limio", resource=catalog).digest
    )
    for data in (None, {}, [], "x", {"modified": None}, {"modified": {}}):
        assert fingerprint_of({**one, "data": data}, api="Limio", resource=catalog).when is None


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("1970-01-01T00:00:00Z", datetime(1970, 1, 1, tzinfo=UTC)),
        ("1969-12-31T23:59:59Z", datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("0001-01-01T00:00:00Z", datetime(1, 1, 1, tzinfo=UTC)),
        ("9999-12-31T23:59:59.999999Z", datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)),
        ("2026-10-01T12:00:00", START),
        ("2026-10-01", datetime(2026, 10, 1, tzinfo=UTC)),
        ("20261001", datetime(2026, 10, 1, tzinfo=UTC)),
        ("20261001T120000Z", START),
        ("20261001 12:00", START),
    ],
)
def test_times_at_the_edges(text, when):
    [one] = see({"id": "a", "updated": text})
    assert one.when == when
    position = Watermark(changed_after=datetime(1, 1, 1, tzinfo=UTC) + OVERLAP)
    if one.is_since(position.changed_after):
        assert position.changes([one]) == (one,)
        moved = through_json(position.advance([one], overlap=OVERLAP, now=START))
        assert moved.changes([one]) == ()
        assert moved.changed_after is not None
        assert datetime(1970, 1, 1, tzinfo=UTC) - OVERLAP <= moved.changed_after <= START


@pytest.mark.parametrize("text", ["1795010112", "1795010112300", "1795010112300Z", "17950101123.5", "179501011230000000"])
def test_a_number_since_1970_is_no_time(text):
    """Python reads some as times of the 18th century, which no watch looks at any more."""
    [one] = see({"id": "a", "updated": text})
    assert one.when is None
    assert Watermark(changed_after=START).changes([one]) == (one,)


def test_a_list_in_which_nothing_changes_is_read_back_for_a_day():
    position = Watermark(changed_after=START - OVERLAP).advance(see(record(1, START)), overlap=OVERLAP, now=START)
    assert position.advance((), overlap=OVERLAP, now=START + IDLE - OVERLAP).changed_after == START - OVERLAP
    later = position.advance((), overlap=OVERLAP, now=START + 30 * IDLE)
    assert later.changed_after == START + 29 * IDLE
    assert later.changes(see(record(2, START + 30 * IDLE)))
    # A longer overlap is what somebody asked for.
    assert position.advance((), overlap=40 * IDLE, now=START + 30 * IDLE).changed_after == START - OVERLAP


def test_what_was_missed_in_an_outage_longer_than_a_day_is_news():
    position = Watermark(changed_after=START - OVERLAP).advance(see(record(1, START)), overlap=OVERLAP, now=START)
    missed = see(record(2, START + IDLE), record(3, START + 5 * IDLE))
    assert position.changes(missed) == missed
    assert position.advance(missed, overlap=OVERLAP, now=START + 9 * IDLE).changed_after == START + 8 * IDLE
