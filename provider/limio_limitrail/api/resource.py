# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""An endpoint, as data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from string import Formatter
from urllib.parse import quote

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.api.pagination import CursorString, Paging
from limio_limitrail.api.stable_repr import stable_repr
from limio_limitrail.url_paths import unfit_part, unfit_path


class AuthMode(StrEnum):
    """How a connection proves who it is."""

    OAUTH = "oauth"
    """A bearer token, minted with client credentials."""
    API_KEY = "api_key"
    """Limio's legacy publishable key, for some catalog endpoints only."""


@dataclass(frozen=True, kw_only=True)
class TimeFilter:
    """The query parameters by which a list is cut to what came since a time, and before another one.

    :param since: the parameter that takes the lower bound.
    :param field: what the API compares with the bounds, as far as it is known.
    :param required: True where the API refuses a request without them.
    :param until: the parameter that takes the upper bound; none where the API has none.
    """

    since: str
    field: str
    required: bool = False
    until: str | None = None


@dataclass(frozen=True, kw_only=True, repr=False)
class Resource:
    """One list endpoint: everything that paging, watermarks and landing need to know of it.

    A tenant may have endpoints that nobody documented: make a Resource of your own and pass it wherever a name is accepted.
    It prints the same in every process. A list or a set of names may be given for a tuple, and one text for a list of one.

    :param name: what logs, manifests and summaries call it.
    :param path: the path below the API's prefix, with ``{placeholders}`` for parts that a caller fills in.
    :param paging: how to get from one page to the next.
    :param records: the member of the answer that holds the list.
    :param primary_key: the columns that identify a record; empty where nothing does.
    :param time_column: the column that tells when a record last changed (or was made, where it never changes).
    :param time_filter: the parameters that cut the list by time; none where every pull is a full scan.
    :param timestamps: the columns to land as instants when every value in them is one.
    :param columns: values to lift out of nested objects, as column name → dotted path.
    :param params: query parameters that always go along.
    :param path_defaults: what placeholders of the path stand for when a caller leaves them out.
    :param total: the member of the answer that tells how many records match, checked against what came.
    :param detail_path: the path of one record by ``{id}``, where the list holds summaries only.
    :param credentials: the ways to authenticate that the endpoint accepts.
    :param scope: the OAuth scope that it needs, where it is known.
    :param assumed: the parts of this row that no document confirms, in words.
    :param max_page_size: the largest page size worth asking for; none where no limit is known.
    :param ignored_members: members of the answer, as dotted paths, that say nothing of further pages or of failures although
        their names sound like it, such as a ``total`` that is an amount.
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
        """Bring what was given into one form.

        :raises ParameterError: a field holds something else than its names, mappings or ways to authenticate.
        """
        for name in ("primary_key", "timestamps", "assumed", "ignored_members"):
            object.__setattr__(self, name, self._names(name))
        for name in ("columns", "params", "path_defaults"):
            value = getattr(self, name)
            if not isinstance(value, Mapping):
                raise self._unfit(name, "a mapping of names to texts")
            object.__setattr__(self, name, dict(value))
        try:
            credentials = frozenset(AuthMode(mode) for mode in self._names("credentials"))
        except ValueError:
            raise self._unfit("credentials", f"one or more of {', '.join(AuthMode)}") from None
        object.__setattr__(self, "credentials", credentials)

    def _names(self, field_name: str) -> tuple[str, ...]:
        value = getattr(self, field_name)
        if isinstance(value, str):
            return (value,)
        names = tuple(value) if isinstance(value, Iterable) and not isinstance(value, Mapping) else (None,)
        if not all(isinstance(name, str) for name in names):
            raise self._unfit(field_name, "a list of texts")
        # A set has another order in each process.
        return tuple(sorted(names)) if isinstance(value, Set) else names

    def _unfit(self, field_name: str, expected: str) -> ParameterError:
        return ParameterError(f"Resource {self.name!r}: {field_name} must be {expected}")

    def __repr__(self) -> str:
        return stable_repr(self)

    def __hash__(self) -> int:
        return hash((self.name, self.path))

    def placeholders(self) -> tuple[str, ...]:
        """Name the parts of the path that a caller can fill in."""
        return names_in(self.path, resource=self.name)

    def path_for(self, path_params: Mapping[str, str] | None = None) -> str:
        """Fill the path in.

        :param path_params: values for placeholders; each is percent-encoded whole, so that no value can leave its segment.
        :raises ParameterError: the path has no such placeholder, a placeholder has no value, or an empty or dotted one.
        """
        known = self.placeholders()
        if unknown := [name for name in path_params or {} if name not in known]:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise ParameterError(
                f"the path {self.path!r} of resource {self.name!r} has no placeholder {unknown[0][:60]!r}: {has}. Query "
                "parameters go into query_params"
            )
        return fill_path(self.path, {**self.path_defaults, **(path_params or {})}, resource=self.name)


def fill_path(template: str, parts: Mapping[str, str], *, resource: str) -> str:
    """Put values into a path's placeholders, percent-encoded.

    :raises ParameterError: a value is missing, or leads to another path.
    """
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
    """Name a path's placeholders, each once.

    :raises ParameterError: what stands in its braces is no name.
    """
    try:
        names = tuple(dict.fromkeys(name for _, name, _, _ in Formatter().parse(template) if name is not None))
        template.format_map(dict.fromkeys(names, ""))
    except (ValueError, KeyError, IndexError, AttributeError, TypeError):
        names = ("",)
    if not all(names):
        raise ParameterError(f"the path {template!r} of {resource!r} must have plain names in its braces, such as {{id}}")
    return names


def encodable(name: str, value: str) -> str:
    """Give a text back that can be put into a URL.

    :raises ParameterError: it holds half a surrogate pair, which no encoding can.
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ParameterError(f"parameter {name!r} holds half a surrogate pair, which cannot be sent") from None
    return value
