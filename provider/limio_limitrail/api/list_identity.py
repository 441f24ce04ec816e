# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a watermark or the position of a watch is about: a list of one tenant. How far one has come says nothing of another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from limio_limitrail.api.resource import Resource

CLIENT = "client"
TENANT = "tenant"

Source = Mapping[str, str]
"""Digests by what they are of. A state store is plain text, and need not say who the customer is."""


def list_source(resource: Resource, *, path_params: Mapping[str, Any] | None, owner: Mapping[str, str]) -> Source:
    """Return the source of a list's records.

    How the list is paged and what is kept of a record do not belong to it.

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
    """Name what differs between two sources; nothing where one is not known.

    A tenant has more than one client, and one client has one tenant: where both sources name the tenant, the client does not
    count, and where only one of them does, the tenant does not.
    """
    if not known:
        return ()
    differ = [name for name, digest in now.items() if name in known and known[name] != digest]
    if CLIENT in differ and TENANT in known and TENANT in now:
        differ.remove(CLIENT)
    return tuple(differ)


def read_source(value: object) -> Source | None:
    """Read a stored source; None where none was stored.

    :raises TypeError: it is none.
    """
    if value is None:
        return None
    if not isinstance(value, Mapping) or not all(isinstance(one, str) for pair in value.items() for one in pair):
        raise TypeError(f"{type(value).__name__} where names and digests belong")
    return dict(value)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
