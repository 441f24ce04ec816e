# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The identity of a list of one tenant, to which a watermark or the state of a watch belongs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import msgspec

from limio_limitrail.api.resource import Resource

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
    """Return a stored identity; None where none was stored.

    :raises msgspec.ValidationError: it is something else; a ValueError.
    """
    return msgspec.convert(value, dict[str, str] | None)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
