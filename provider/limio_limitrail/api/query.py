# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The request for a list: its path, its query, and times as the APIs write them; and the identity of a list of one tenant."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import Any

import msgspec

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.api.resource import Resource, encodable

EARLIEST = datetime.min.replace(tzinfo=UTC)
LATEST = datetime.max.replace(tzinfo=UTC)


def build_query(
    resource: Resource,
    *,
    path_params: Mapping[str, object] | None = None,
    query_params: Mapping[str, object] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> tuple[str, dict[str, str]]:
    """Return the path and the query parameters of a list, without its paging.

    :param path_params: values for the placeholders of the resource's path; None leaves one out.
    :param query_params: query parameters; None leaves one out.
    :param since: the lower bound in time, for resources that filter by it. It is rounded down to the second.
    :param until: the upper bound in time, for resources that filter by it. It is rounded up to the second.
    :raises ParameterError: a placeholder is missing or unknown, a value has no text form, the resource needs a bound in time and
        has none, or has one and cannot filter by it, or a query parameter is a placeholder, the paging's cursor or a bound that
        is given as well.
    """
    path = resource.path_for(texts_of(path_params))
    given = texts_of(query_params)
    check_query_params(resource, given)
    query = {**resource.params, **given}
    check_bounds(resource, query, since=since is not None, until=until is not None)
    _add_bounds(query, resource, since=since, until=until)
    return path, query


def check_query_params(resource: Resource, given: Collection[str]) -> None:
    """Raise `ParameterError` if a query parameter is a placeholder of the path, or the paging's cursor."""
    in_path = resource.placeholders()
    if wrong := [name for name in in_path if name in given]:
        raise ParameterError(
            f"query parameter {wrong[0]!r} is a placeholder in the path {resource.path!r} of {resource.name!r}: give it in "
            f"path_params, which takes {', '.join(in_path)}"
        )
    if own := [name for name in getattr(resource.paging, "cursor_params", ()) if name in given]:
        raise ParameterError(
            f"query parameter {own[0]!r} is the paging cursor of {resource.name!r}, which each page sets: a list that begins at "
            "a cursor of your own lacks the records before it. Leave it out"
        )


def check_bounds(resource: Resource, query: Collection[str], *, since: bool, until: bool) -> None:
    """Raise `ParameterError` if a query sets a bound in time that the range of time sets as well.

    The log, the summary and the watermark would be about another range than the one that was asked for.

    :param since: whether the range has a lower bound.
    :param until: whether it has an upper bound.
    """
    time_filter = resource.time_filter
    if time_filter is None:
        return
    for parameter, name, is_set in ((time_filter.since, "since", since), (time_filter.until, "until", until)):
        if is_set and parameter in query:
            raise ParameterError(
                f"query parameter {parameter!r} of {resource.name!r} is how the range of time says {name}=, and the range has "
                f"one: give the time as {name}=, and leave {parameter!r} out of query_params and of the Resource's params"
            )


def texts_of(params: Mapping[str, object] | None) -> dict[str, str]:
    """Return parameters as the texts that are sent, without those that are None; raise `ParameterError` for other values."""
    return {name: as_text(name, value) for name, value in (params or {}).items() if value is not None}


def _add_bounds(query: dict[str, str], resource: Resource, *, since: datetime | None, until: datetime | None) -> None:
    time_filter = resource.time_filter
    if since is not None:
        if time_filter is None:
            raise ParameterError(f"resource {resource.name!r} cannot be filtered by time: leave since out")
        query[time_filter.since] = time_text(since)
    if until is not None:
        if time_filter is None or time_filter.until is None:
            raise ParameterError(f"resource {resource.name!r} has no upper bound in time: leave until out")
        if since is not None and since >= until:
            raise ParameterError(f"since={since.isoformat()} is not before until={until.isoformat()}: nothing lies between them")
        query[time_filter.until] = time_text(until, up=True)
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
    """Return a text, a number, a boolean or a time as it is sent in a query; raise `ParameterError` for anything else."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return time_text(value)
    if isinstance(value, float) and not isfinite(value):
        raise ParameterError(f"parameter {name!r} is {value}, which is no number that an API reads")
    if isinstance(value, str | int | float):
        try:
            text = str(value)
        except ValueError:
            raise ParameterError(f"parameter {name!r} is a number with more digits than Python writes") from None
        return encodable(name, text)
    raise ParameterError(f"parameter {name!r} is {type(value).__name__}; expected a text, a number, a boolean or a datetime")


def time_text(when: datetime, *, up: bool = False) -> str:
    """Return a time in UTC as text, to the second, rounded down, so that a lower bound loses nothing.

    :param up: round up instead, as an upper bound must be.
    :raises ParameterError: the time has no zone.
    """
    # Not by strftime, which writes the year 1 with one digit.
    return whole_second(when, up=up).replace(tzinfo=None).isoformat() + "Z"


def whole_second(when: datetime, *, up: bool = False) -> datetime:
    """Return a time in UTC to the second. The parameters and errors are those of `time_text`."""
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


def in_utc(when: datetime) -> datetime:
    """Return a time that has a zone in UTC; `EARLIEST` or `LATEST` where it lies beyond them there."""
    try:
        return when.astimezone(UTC)
    except OverflowError:
        return EARLIEST if when.year == 1 else LATEST


CLIENT = "client"
TENANT = "tenant"
MASKS = "masks or their secret"
"""What a table's rows were masked by. An identity without it is that of unmasked rows."""

Source = Mapping[str, str]
"""Digests by what they identify: a state store is plain text, and need not name the customer."""


def list_source(resource: Resource, *, path_params: Mapping[str, Any] | None, owner: Mapping[str, str]) -> Source:
    """Return the identity of a list. Its paging, and which columns are kept, do not belong to it.

    :param path_params: values for the path's placeholders.
    :param owner: whose list it is, as `ApiHook.owner` says.
    :raises ParameterError: a placeholder has no value.
    """
    time_filter, time_column = resource.time_filter, resource.time_column
    of_list = [resource.path_for(path_params), resource.params, resource.records]
    of_time = [
        [time_filter.since, time_filter.until] if time_filter is not None else None,
        resource.columns.get(time_column, time_column) if time_column is not None else None,
    ]
    return {name: _digest(value) for name, value in {**owner, "list": of_list, "time filter or time column": of_time}.items()}


def differences(known: Source | None, now: Source) -> tuple[str, ...]:
    """Return what differs between two identities; nothing where one is not known.

    A tenant has more than one client, and one client has one tenant: where both name the tenant, the client does not
    count, and where only one of them does, the tenant does not.
    """
    if not known:
        return ()
    differ = [name for name, digest in now.items() if name in known and name != MASKS and known[name] != digest]
    if known.get(MASKS) != now.get(MASKS):
        differ.append(MASKS)
    if CLIENT in differ and TENANT in known and TENANT in now:
        differ.remove(CLIENT)
    return tuple(differ)


def read_source(value: object) -> Source | None:
    """Return a stored identity; None where none was stored. Anything else is a `msgspec.ValidationError`, a ValueError."""
    return msgspec.convert(value, dict[str, str] | None)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
