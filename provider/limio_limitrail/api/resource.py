# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""An endpoint as data: a `Resource`, its JSON for a triggerer, and its repr, which is the same in every process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum, StrEnum
from functools import lru_cache
from string import Formatter
from typing import Any
from urllib.parse import quote

import msgspec

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.api.pagination import CursorPair, CursorString, Paging, SinglePage
from limio_limitrail.lazy import lazy_pattern
from limio_limitrail.urls import unfit_part, unfit_path

_PAGING_STYLES: dict[str, type[Any]] = {style.__name__: style for style in (CursorPair, CursorString, SinglePage)}
_MEMORY_ADDRESS = lazy_pattern(r" at 0x[0-9a-fA-F]+")
_MAX_REPR_DEPTH = 12

# RFC 6749, section 3.3, without the comma and the semicolon, with which people separate what spaces should.
_SCOPE = lazy_pattern(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]+")


class AuthMode(StrEnum):
    """How a connection authenticates."""

    OAUTH = "oauth"
    """A bearer token, minted with client credentials."""
    API_KEY = "api_key"
    """Limio's legacy publishable key, for some catalog endpoints only."""


@dataclass(frozen=True, kw_only=True)
class TimeFilter:
    """The query parameters that filter a list by time.

    :param since: the parameter that takes the lower bound.
    :param field: the field that the API compares with the bounds, as far as it is known.
    :param required: True where the API refuses a request without them.
    :param until: the parameter that takes the upper bound; None where the API has none.
    """

    since: str
    field: str
    required: bool = False
    until: str | None = None


@dataclass(frozen=True, kw_only=True, repr=False)
class Resource:
    """One list endpoint: everything that paging, watermarks and loading need to know of it.

    A tenant may have endpoints that nobody documented: create a `Resource` and pass it wherever a name is accepted.
    Its repr is the same in every process. A list or a set is accepted instead of a tuple, and a text instead of a list of one.

    :param name: what logs, manifests and summaries call it.
    :param path: the path below the API's prefix, with ``{placeholders}`` for parts that a caller fills in.
    :param paging: how to get from one page to the next.
    :param records: the member of the response that holds the list.
    :param primary_key: the columns that identify a record; empty where nothing does.
    :param time_column: the column with the time of a record's last change (or of its creation, if it never changes).
    :param time_filter: the parameters that cut the list by time; none where every pull is a full scan.
    :param timestamps: the columns to land as instants when every value in them is one.
    :param columns: values to lift out of nested objects, as column name → dotted path.
    :param params: query parameters that always go along.
    :param path_defaults: values of placeholders that a caller leaves out.
    :param total: the member of the response with the number of records that match, which is checked.
    :param detail_path: the path of one record by ``{id}``, where the list holds summaries only.
    :param credentials: the ways to authenticate that the endpoint accepts.
    :param scope: the OAuth scope that it needs, where it is known.
    :param assumed: the parts of this row that no document confirms, in words.
    :param max_page_size: the largest page size worth asking for; none where no limit is known.
    :param ignored_members: members of the response, as dotted paths, that say nothing of further pages or of failures although
        their names sound like it, such as a ``total`` that is an amount. They may also come twice.
    """

    name: str
    path: str
    paging: Paging = field(default_factory=CursorString)
    records: str = "items"
    primary_key: tuple[str, ...] = ("id",)
    time_column: str | None = None
    time_filter: TimeFilter | None = None
    timestamps: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    path_defaults: Mapping[str, str] = field(default_factory=dict)
    total: str | None = None
    detail_path: str | None = None
    credentials: frozenset[AuthMode] = frozenset({AuthMode.OAUTH})
    scope: str | None = None
    assumed: tuple[str, ...] = ()
    max_page_size: int | None = None
    ignored_members: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Convert lists and single texts to tuples; raise `ParameterError` for a field of another type."""
        for name in ("primary_key", "timestamps", "assumed", "ignored_members"):
            object.__setattr__(self, name, self._names(name))
        for name in ("columns", "params", "path_defaults"):
            value = getattr(self, name)
            if not isinstance(value, Mapping):
                raise self._wrong_type(name, "a mapping of names to texts")
            object.__setattr__(self, name, dict(value))
        try:
            credentials = frozenset(AuthMode(mode) for mode in self._names("credentials"))
        except ValueError:
            raise self._wrong_type("credentials", f"one or more of {', '.join(AuthMode)}") from None
        object.__setattr__(self, "credentials", credentials)

    def _names(self, field_name: str) -> tuple[str, ...]:
        value = getattr(self, field_name)
        if isinstance(value, str):
            return (value,)
        names = tuple(value) if isinstance(value, Iterable) and not isinstance(value, Mapping) else (None,)
        if not all(isinstance(name, str) for name in names):
            raise self._wrong_type(field_name, "a list of texts")
        # A set has another order in each process.
        return tuple(sorted(names)) if isinstance(value, Set) else names

    def _wrong_type(self, field_name: str, expected: str) -> ParameterError:
        return ParameterError(f"Resource {self.name!r}: {field_name} must be {expected}")

    def __repr__(self) -> str:
        return stable_repr(self)

    def __hash__(self) -> int:
        return hash((self.name, self.path))

    def placeholders(self) -> tuple[str, ...]:
        """Return the names of the path's placeholders."""
        return names_in(self.path, resource=self.name)

    def path_for(self, path_params: Mapping[str, str] | None = None) -> str:
        """Return the path, filled in.

        :param path_params: values for placeholders; each is percent-encoded whole, so that no value can leave its segment.
        :raises ParameterError: the path has no such placeholder, a placeholder has no value, or an empty or dotted one.
        """
        known = self.placeholders()
        if unknown := [name for name in path_params or {} if name not in known]:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise ParameterError(
                f"the path {self.path!r} of resource {self.name!r} has no placeholder {str(unknown[0])[:60]!r}: {has}. Query "
                "parameters go into query_params"
            )
        return fill_path(self.path, {**self.path_defaults, **(path_params or {})}, resource=self.name)


def find_in_table(resource: str | Resource, *, table: Mapping[str, Resource], api: str) -> Resource:
    """Return a resource by name, or raise `ParameterError`; a `Resource` is returned as it is."""
    if isinstance(resource, Resource):
        return resource
    try:
        return table[resource]
    except KeyError:
        from difflib import get_close_matches

        close = get_close_matches(str(resource), table, n=3)
        hint = f" Did you mean {' or '.join(repr(name) for name in close)}?" if close else ""
        raise ParameterError(
            f"{api} has no resource {str(resource)[:60]!r} in this provider.{hint} Pass a Resource(...) of your own for an "
            f"endpoint that is not in the table; known are: {', '.join(sorted(table))}"
        ) from None


def fill_path(template: str, parts: Mapping[str, str], *, resource: str) -> str:
    """Return a path with values for its placeholders, percent-encoded; raise `ParameterError` for a missing or unfit one."""
    values: dict[str, str] = {}
    for name in names_in(template, resource=resource):
        value = encodable(name, str(parts.get(name, "")))
        if not value:
            raise ParameterError(
                f"resource {resource!r} needs a value for {name!r} in its path {template!r}: give path_params={{{name!r}: ...}}; "
                f"the path's placeholders are {', '.join(names_in(template, resource=resource))}"
            )
        if (unfit := unfit_part(value)) is not None:
            raise ParameterError(f"the value of {name!r} cannot be put into the path {template!r} of {resource!r}: {unfit}")
        values[name] = quote(value, safe="")
    path = template.format_map(values)
    if (unfit := unfit_path(path)) is not None:
        raise ParameterError(f"the path {template!r} of {resource!r} cannot be sent as it is filled in: {unfit}")
    return path


@lru_cache(maxsize=256)
def names_in(template: str, *, resource: str) -> tuple[str, ...]:
    """Return the names of a path's placeholders, each once; raise `ParameterError` if one is no name."""
    try:
        names = tuple(dict.fromkeys(name for _, name, _, _ in Formatter().parse(template) if name is not None))
        template.format_map(dict.fromkeys(names, ""))
    except (ValueError, KeyError, IndexError, AttributeError, TypeError):
        names = ("",)
    if not all(names):
        raise ParameterError(f"the path {template!r} of {resource!r} must have plain names in its braces, such as {{id}}")
    return names


def encodable(name: str, value: str) -> str:
    """Return a value that can be put into a URL; raise `ParameterError` for half a surrogate pair."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ParameterError(f"parameter {name!r} holds half a surrogate pair, which cannot be sent") from None
    return value


def resource_to_json(resource: Resource) -> dict[str, Any]:
    """Return a resource as JSON for a triggerer; raise `ParameterError` for a paging class that a triggerer cannot create."""
    style = type(resource.paging).__name__
    if _PAGING_STYLES.get(style) is not type(resource.paging):
        raise ParameterError(
            f"resource {resource.name!r} has a paging of its own ({style}), which a triggerer cannot make: "
            "only a worker can look at it (deferrable=False)"
        )
    members = msgspec.json.decode(msgspec.json.encode(resource))
    return {**members, "paging": {"style": style, **members["paging"]}, "credentials": sorted(members["credentials"])}


def resource_from_json(data: Mapping[str, Any]) -> Resource:
    """Return the resource of `resource_to_json`; missing members have their defaults, unknown ones are ignored."""
    known = {one.name for one in fields(Resource)}
    members = {name: value for name, value in data.items() if name in known}
    paging, time_filter = dict(data["paging"]), data.get("time_filter")
    members["paging"] = _PAGING_STYLES[paging.pop("style")](**paging)
    members["time_filter"] = TimeFilter(**time_filter) if time_filter else None
    members["credentials"] = frozenset(AuthMode(mode) for mode in data["credentials"])
    return Resource(**members)


def stable_repr(value: object, *, depth: int = 0) -> str:
    """Return a repr without memory addresses, in which sets and mappings are sorted.

    Airflow makes a new version of a Dag whose texts differ. What is nested deeper than twelve levels shows as three dots.
    """
    if depth > _MAX_REPR_DEPTH:
        return "..."
    if isinstance(value, Enum):
        return f"{type(value).__qualname__}.{value.name}"
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return f"<{value.__qualname__}>"
    below = depth + 1
    if isinstance(value, Mapping):
        items = sorted((stable_repr(key, depth=below), stable_repr(one, depth=below)) for key, one in value.items())
        return "{" + ", ".join(f"{key}: {one}" for key, one in items) + "}"
    if isinstance(value, Set):
        return "{" + ", ".join(sorted(stable_repr(one, depth=below) for one in value)) + "}"
    if type(value) is list:
        return "[" + ", ".join(stable_repr(one, depth=below) for one in value) + "]"
    if type(value) is tuple:
        inside = ", ".join(stable_repr(one, depth=below) for one in value)
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    if isinstance(value, msgspec.Struct):
        members = msgspec.structs.asdict(value)
    elif is_dataclass(value):
        members = {one.name: getattr(value, one.name, None) for one in fields(value) if one.repr}
    elif type(value).__repr__ is object.__repr__:
        members = dict(sorted(getattr(value, "__dict__", {}).items()))
    else:
        return _MEMORY_ADDRESS.sub("", repr(value))
    text = ", ".join(f"{name}={stable_repr(one, depth=below)}" for name, one in members.items())
    return f"{type(value).__qualname__}({text})"


def split_scopes(scope: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the OAuth scopes of a text or a list, sorted, each once."""
    texts = (scope,) if isinstance(scope, str) else tuple(scope or ())
    return tuple(sorted({one for text in texts for one in text.split()}))


def unfit_scopes(scopes: Sequence[str]) -> tuple[str, ...]:
    """Return the texts that cannot be scopes."""
    return tuple(scope for scope in scopes if not _SCOPE.fullmatch(scope))
