# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Read who is asked, and what tells them so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limio_limitrail.parameters.given import as_native, plain, unfit

_USERS = "a list of the ids of Airflow users, or of mappings with an id and a name"


def users(name: str, value: object) -> list[dict[str, str]]:
    """Read Airflow users: ids, or mappings with ``id`` and ``name``; one alone is a list of one.

    :raises ParameterError: one of them is none.
    """
    given: Any = plain(value)
    if isinstance(given, str):
        found = as_native(given) if given.strip()[:1] in ("[", "{", "(") else given
        given = found if isinstance(found, list | tuple | Mapping) else [given]
    items = [given] if isinstance(given, Mapping) else given
    if not isinstance(items, list | tuple):
        raise unfit(name, value, expected=_USERS)
    read = [_user(item) for item in items]
    if not read or None in read:
        raise unfit(name, value, expected=_USERS)
    return [user for user in read if user is not None]


def _user(item: object) -> dict[str, str] | None:
    found = item if isinstance(item, Mapping) else {"id": item, "name": item}
    if set(found) - {"id", "name"}:
        return None
    identity, name = plain(found.get("id")), plain(found.get("name", found.get("id")))
    if isinstance(identity, int) and not isinstance(identity, bool):
        # Some of Airflow's user managers count their users; a form compares ids as texts.
        identity, name = str(identity), str(name)
    if not isinstance(identity, str) or not isinstance(name, str) or not identity.strip():
        return None
    return {"id": identity, "name": name}


def notifiers(name: str, value: object) -> list[Any]:
    """Read notifiers: one, or a list of them.

    :raises ParameterError: one of them cannot be called.
    """
    items = list(value) if isinstance(value, list | tuple) else [value]
    if not all(callable(item) for item in items):
        raise unfit(name, value, expected="an Airflow notifier, or a list of them")
    return items
