# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Turn what a person asks for into a path and a query."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.api.resource import Resource, encodable
from limio_limitrail.api.times import in_utc


@dataclass(frozen=True, kw_only=True)
class Query:
    """A list request without its paging.

    :param path: the path, filled in and percent-encoded.
    :param params: the query parameters that stay the same on every page.
    """

    path: str
    params: Mapping[str, str]


def build_query(
    resource: Resource,
    *,
    params: Mapping[str, object] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Query:
    """Build the request for a list.

    :param params: placeholders of the resource's path by name, and query parameters; None leaves one out.
    :param since: the lower bound in time, for resources that filter by it. It is rounded down to the second.
    :param until: the upper bound in time, for resources that filter by it. It is rounded up to the second.
    :raises ParameterError: a placeholder is missing, a value has no text form, the resource needs a bound in time and has none,
        or has one and cannot filter by it, or a parameter is the paging's cursor.
    """
    given = {name: as_text(name, value) for name, value in (params or {}).items() if value is not None}
    in_path = resource.placeholders()
    path = resource.path_for({name: given[name] for name in in_path if name in given})
    if own := [name for name in getattr(resource.paging, "cursor_params", ()) if name in given and name not in in_path]:
        raise ParameterError(
            f"parameter {own[0]!r} is the place in the list of {resource.name!r}, which each page sets anew: with a place of "
            "your own, the records before it would be missing. Leave it out"
        )
    query = dict(resource.params) | {name: value for name, value in given.items() if name not in in_path}
    _cut(query, resource, since=since, until=until)
    return Query(path=path, params=query)


def _cut(query: dict[str, str], resource: Resource, *, since: datetime | None, until: datetime | None) -> None:
    """Put the bounds in time into a query."""
    time_filter = resource.time_filter
    if since is not None:
        if time_filter is None:
            raise ParameterError(f"resource {resource.name!r} cannot be filtered by time: leave since out")
        query.setdefault(time_filter.since, time_text(since))
    if until is not None:
        if time_filter is None or time_filter.until is None:
            raise ParameterError(f"resource {resource.name!r} has no upper bound in time: leave until out")
        if since is not None and since >= until:
            raise ParameterError(f"since={since.isoformat()} is not before until={until.isoformat()}: nothing lies between them")
        query.setdefault(time_filter.until, time_text(until, up=True))
    if time_filter is None or not time_filter.required:
        return
    needed = [time_filter.since] if time_filter.until is None else [time_filter.since, time_filter.until]
    if all(name in query for name in needed):
        return
    what, give = ("a start", "since=...") if time_filter.until is None else ("a start and an end", "since=... and until=...")
    raise ParameterError(
        f"resource {resource.name!r} needs {what} in time, because the API refuses a request without {' and '.join(needed)}: "
        f"give {give}"
    )


def as_text(name: str, value: object) -> str:
    """Write a query parameter's value as the APIs read it.

    :raises ParameterError: the value is neither a text, a number, a boolean nor a time.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return time_text(value)
    if isinstance(value, str | int | float):
        try:
            text = str(value)
        except ValueError:
            raise ParameterError(f"parameter {name!r} is a number with more digits than Python writes") from None
        return encodable(name, text)
    raise ParameterError(f"parameter {name!r} is {type(value).__name__}; expected a text, a number, a boolean or a datetime")


def time_text(when: datetime, *, up: bool = False) -> str:
    """Write an instant in UTC to the second, rounded down: as a lower bound it then loses nothing.

    :param up: round up instead, as an upper bound must be.
    :raises ParameterError: the time has no zone.
    """
    # Not by strftime, which writes the year 1 with one digit.
    return whole_second(when, up=up).replace(tzinfo=None).isoformat() + "Z"


def whole_second(when: datetime, *, up: bool = False) -> datetime:
    """Give an instant in UTC to the second. Parameters and errors as for `time_text`."""
    if when.tzinfo is None:
        raise ParameterError(f"the time {when.isoformat()} has no zone; give one, such as UTC")
    utc = in_utc(when)
    whole = utc.replace(microsecond=0)
    if not up or whole == utc:
        return whole
    try:
        return whole + timedelta(seconds=1)
    except OverflowError:  # the last second of all
        return whole
