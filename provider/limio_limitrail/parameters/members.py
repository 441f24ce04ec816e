# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Read parameters that are objects with members, such as a `Check`, or mappings with these."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any, TypeVar

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.parameters.given import is_template, plain, type_of
from limio_limitrail.parameters.readers import Reader, mapping

T = TypeVar("T")


def read_members(name: str, value: object, *, of: type[T], readers: Mapping[str, Reader[Any]]) -> T:
    """Read an object, or a mapping with its members, as a template or a connection gives it.

    :raises ParameterError: it is neither, or a member does not fit or is a template: Airflow renders those of mappings only.
    """
    found = plain(value)
    if isinstance(found, of):
        given = {member: getattr(found, member) for member in readers}
        if member := next((member for member, item in given.items() if is_template(item)), None):
            what = f"{name}[{member!r}] is a template, and Airflow renders none in {of.__name__}(...)"
            raise ParameterError(f"{what}: give a mapping with its members instead, such as {{{member!r}: ...}}")
    elif isinstance(found, Mapping | str):
        given = mapping(name, found)
    else:
        raise ParameterError(f"{name} must be a {of.__name__}, or a mapping of {' and '.join(readers)}, got {type_of(found)}")
    if unknown := sorted(set(given) - set(readers)):
        raise ParameterError(f"{name} must be a mapping of {' and '.join(readers)}, got the member {unknown[0]!r}")
    required = {member for member, one in signature(of).parameters.items() if one.default is one.empty}
    return of(
        **{
            member: read(f"{name}[{member!r}]", given.get(member))
            for member, read in readers.items()
            if member in given or member in required
        }
    )
