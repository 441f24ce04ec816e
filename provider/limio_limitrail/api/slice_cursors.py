# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Where a walk through slices of time stands: which slices it is in the middle of, and from where on it has not begun.

The cursor of a walk that is in one slice after another names the slice by where it begins, and the page in it. A walk that is in
several slices numbers these; `_NEXT` tells where the rest begins. It has no `_FROM` of its own, so that whoever knows of one
slice only takes it for a lost place, instead of passing over the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from limio_limitrail.api.pagination import Cursor
from limio_limitrail.api.query import time_text, whole_second
from limio_limitrail.api.time_slices import Slice, slices

_FROM = "slice.from"
_SEEN = "slice.seen"
_TOTAL = "slice.total"
_PAGE = "page."
_NEXT = "slice.next"
_NUMBERED = re.compile(r"([0-9]{1,4})\.(.+)", re.DOTALL)


class NoPlaceError(ValueError):
    """A cursor names no place in a window."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A place in a slice.

    :param page: the next page's cursor; none at the slice's beginning.
    :param seen: records that came of the slice before.
    :param total: how many the API announced, where it does.
    """

    page: Cursor | None = None
    seen: int = 0
    total: int | None = None


BEGINNING = Place()


@dataclass(frozen=True, kw_only=True)
class Places:
    """What is left of a window.

    :param end: where the window ends, to the second.
    :param window: how long a slice is.
    :param rest: where the slices begin of which no page has come; none where there are no more of them.
    :param open: the slices before these that have not ended, by where they begin, in order.
    """

    end: datetime
    window: timedelta
    rest: datetime | None
    open: Mapping[datetime, Place] = field(default_factory=dict)

    def left(self) -> Iterator[tuple[Slice, Place]]:
        """Give the slices that are left, in order, with the place in each."""
        for since, place in self.open.items():
            yield self._slice(since), place
        if self.rest is not None:
            for piece in slices(since=self.rest, until=self.end, window=self.window):
                yield piece, BEGINNING

    def after(self, since: datetime, place: Place | None) -> Places:
        """Give what is left after a page.

        :param since: where the slice begins that the page is of.
        :param place: where it goes on in that slice; none at its end.
        """
        opened, rest = dict(self.open), self.rest
        while rest is not None and rest <= since:
            opened[rest] = BEGINNING
            rest = self._after(rest)
        if place is None:
            del opened[since]
        else:
            opened[since] = place
        return replace(self, rest=rest, open=opened)

    @property
    def inside(self) -> tuple[Place, ...]:
        """The places in the middle of a slice."""
        return tuple(place for place in self.open.values() if place.page is not None)

    def cursor(self) -> Cursor | None:
        """Write down what is left; none where nothing is."""
        told = [_told(since, place) for since, place in self.open.items()]
        if not told:
            return None if self.rest is None else {_FROM: time_text(self.rest)}
        if len(told) == 1 and self.rest == self._after(next(iter(self.open))):
            return told[0]
        rest = {} if self.rest is None else {_NEXT: time_text(self.rest)}
        return rest | {f"{number}.{name}": value for number, one in enumerate(told) for name, value in one.items()}

    def _slice(self, since: datetime) -> Slice:
        return next(slices(since=since, until=self.end, window=self.window))

    def _after(self, since: datetime) -> datetime | None:
        stop = self._slice(since).until
        return stop if stop < self.end else None


def read_places(cursor: Cursor | None, *, since: datetime, until: datetime, window: timedelta) -> Places:
    """Read what is left of a window.

    :param cursor: what `Places.cursor` wrote; none for all of it.
    :param since: where the window begins.
    :param until: where it ends.
    :param window: how long a slice is.
    :raises NoPlaceError: the cursor is none of this window.
    """
    begin = whole_second(since)
    whole = Places(end=whole_second(until, up=True), window=window, rest=begin)
    if cursor is None:
        return whole
    try:
        rest, opened = _read(cursor)
    except (KeyError, ValueError, OverflowError):
        raise NoPlaceError from None
    starts = [*opened, *([] if rest is None else [rest])]
    if not starts or starts[0] < begin or starts[-1] >= whole.end or any(b - a < window for a, b in pairwise(starts)):
        raise NoPlaceError
    if _FROM not in cursor:
        return replace(whole, rest=rest, open=opened)
    [(start, place)] = opened.items()
    at_start = replace(whole, rest=start)
    return at_start if place == BEGINNING else at_start.after(start, place)


def _told(since: datetime, place: Place) -> dict[str, str]:
    told = {_FROM: time_text(since)}
    if place.page is None:
        return told
    told[_SEEN] = str(place.seen)
    if place.total is not None:
        told[_TOTAL] = str(place.total)
    return told | {f"{_PAGE}{name}": value for name, value in place.page.items()}


def _read(cursor: Cursor) -> tuple[datetime | None, dict[datetime, Place]]:
    """Take a cursor apart: where the rest begins, and the slices that are open."""
    if _FROM in cursor:
        return None, dict([_place(cursor)])
    told: dict[int, dict[str, str]] = {}
    for name, value in cursor.items():
        if (found := _NUMBERED.fullmatch(name)) is not None:
            told.setdefault(int(found[1]), {})[found[2]] = value
        elif name != _NEXT:
            raise NoPlaceError
    opened = [_place(told[number]) for number in sorted(told)]
    if len(dict(opened)) < len(opened):
        raise NoPlaceError
    return _instant(cursor[_NEXT]) if _NEXT in cursor else None, dict(opened)


def _place(told: Mapping[str, str]) -> tuple[datetime, Place]:
    page = {name.removeprefix(_PAGE): value for name, value in told.items() if name.startswith(_PAGE)}
    if len(page) + len({_FROM, _SEEN, _TOTAL} & told.keys()) < len(told) or (len(told) > 1 and not page):
        raise NoPlaceError
    if not page:
        return _instant(told[_FROM]), BEGINNING
    total = int(told[_TOTAL]) if _TOTAL in told else None
    return _instant(told[_FROM]), Place(page=page, seen=int(told.get(_SEEN, 0)), total=total)


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
