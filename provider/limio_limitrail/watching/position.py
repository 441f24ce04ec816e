# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""How far a watch has come: small, plain, and enough to go on from without repeating or skipping a record."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.formats import instant, text
from limio_limitrail.watching.sighting import Sighting

MOST_SEEN = 3_000
"""Records that a position remembers one by one. It is a value in Airflow's state store, which is meant for less than 64 KiB."""

IDLE = timedelta(days=1)
"""A list in which nothing changes is read back no further than this, or than the overlap where that is longer: else the window
would grow for ever."""

FAR = timedelta(days=1)
"""A time that is further ahead is not believed: clocks and zones differ by less."""

_ENTRY = struct.Struct(">QI")
_NEVER = 0
_EPOCH = datetime.fromtimestamp(0, tz=UTC)


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far a watch has come.

    :param floor: what changed before it is not looked at any more; none in lists that tell no time.
    :param seen: the records from the floor on that were announced or were there from the start, as digest and seconds since
        1970; those without a time have 0.
    :param crowded: there were more of them than can be remembered, so that the floor is higher than it should be.
    """

    floor: datetime | None
    seen: Mapping[int, int] = field(default_factory=dict)
    crowded: bool = field(default=False, compare=False)

    def covers(self, sighting: Sighting) -> bool:
        """Tell whether a record is recent enough to be looked at."""
        return sighting.when is None or self.floor is None or sighting.when >= self.floor

    def news(self, sightings: Iterable[Sighting]) -> tuple[Sighting, ...]:
        """Give those that were not seen before, each once."""
        found = {one.digest: one for one in sightings if self.covers(one) and one.digest not in self.seen}
        return tuple(found.values())

    def moved(self, sightings: Iterable[Sighting], *, overlap: timedelta, now: datetime) -> Position:
        """Give the position after a look.

        :param sightings: all that the look has shown from the floor on.
        :param overlap: how much older than the newest record one may be that shows up later.
        :param now: a record that claims to be of later moves the floor no further than this.
        :raises ParameterError: there are more records than a position can remember.
        """
        shown = [one for one in sightings if self.covers(one)]
        floor = self.floor
        newest = max((one.when for one in shown if one.when is not None), default=None)
        if newest is not None:
            reached = max(min(newest, now), _EPOCH) - overlap
            floor = reached if floor is None else max(floor, reached)
        if floor is not None:
            floor = max(floor, now - max(overlap, IDLE))
        # What claims to be of the far future would, where there is much of it, lift the floor above everything else.
        timeless = {one.digest: _NEVER for one in shown if one.when is None or one.when > now + FAR}
        if len(timeless) > MOST_SEEN:
            raise ParameterError(
                f"the list has more than {MOST_SEEN:,} records that tell no time, or one of later than tomorrow, which is too "
                "many to watch. Narrow it with request_params, give a Resource whose time_column tells when a record changed, or "
                "pull it by a schedule"
            )
        timed = {digest: second for digest, second in self.seen.items() if second != _NEVER}
        timed.update({one.digest: max(_second(one.when), 1) for one in shown if one.digest not in timeless})
        room = _room(timed, floor=floor, most=MOST_SEEN - len(timeless))
        lowest = _second(room) if room is not None else 0
        seen = {**{digest: second for digest, second in timed.items() if second >= lowest}, **timeless}
        return Position(floor=room, seen=seen, crowded=room != floor)

    def to_json(self) -> dict[str, Any]:
        """Write it."""
        packed = b"".join(_ENTRY.pack(digest, second) for digest, second in sorted(self.seen.items()))
        return {"floor": self.floor.isoformat() if self.floor else None, "seen": base64.b85encode(packed).decode("ascii")}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Position:
        """Read one.

        :raises ValueError: it is none.
        :raises KeyError: a member is missing.
        :raises TypeError: a member is of another type.
        :raises OverflowError: its time is beyond those that there are in UTC.
        """
        packed = base64.b85decode(text(data["seen"]))
        floor = instant(data["floor"]).astimezone(UTC) if data["floor"] is not None else None
        try:
            return cls(floor=floor, seen=dict(_ENTRY.iter_unpack(packed)))
        except struct.error as error:
            raise ValueError(str(error)) from None


def _second(when: datetime | None) -> int:
    return 0 if when is None else min(max(int(when.timestamp()), 0), 2**32 - 1)


def _room(timed: Mapping[int, int], *, floor: datetime | None, most: int) -> datetime | None:
    """Give the floor above which there are no more records than can be remembered.

    What cannot be remembered would be announced again and again: rather the floor rises above it.
    """
    lowest = _second(floor) if floor is not None else 0
    seconds = sorted((second for second in timed.values() if second >= lowest), reverse=True)
    if len(seconds) <= most:
        return floor
    return datetime.fromtimestamp(seconds[most] + 1, tz=UTC)
