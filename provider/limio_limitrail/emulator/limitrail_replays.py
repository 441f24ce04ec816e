# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Idempotency keys: what was answered to which, so that the same answer can be given again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from limio_limitrail.emulator.limitrail_problems import RefusedCallError

if TYPE_CHECKING:
    from limio_limitrail.emulator.exchange import Call, Reply
    from limio_limitrail.emulator.limitrail_options import LimitRailOptions


class Replays:
    """Answers by tenant, path and key. Only those that said yes are kept."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str, str], tuple[bytes, Reply]] = {}

    def again(self, call: Call, tenant: str, key: str) -> Reply | None:
        """The answer that was given to this key; refuses a key that came with another body."""
        kept = self._kept.get((tenant, call.path, key))
        if kept is None:
            return None
        body, reply = kept
        if body != call.body:
            raise RefusedCallError(call, 409, "The idempotency key was used with another body", code="IDEMPOTENCY_KEY_REUSED")
        return replace(reply, headers={**reply.headers, "idempotency-replayed": "true"})

    def keep(self, call: Call, tenant: str, key: str, reply: Reply) -> None:
        """Remember an answer that said yes; a refusal is raised and never comes here."""
        self._kept[tenant, call.path, key] = call.body, reply


def key_of(call: Call, value: dict[str, Any], options: LimitRailOptions) -> str | None:
    """The idempotency key a request carries where the options look for it; when they do not, wherever it is."""
    header = call.headers.get(options.idempotency_header.lower()) or None
    member = value.get(options.idempotency_field)
    if options.idempotency == "header":
        return header
    if options.idempotency == "field" and member is not None and type(member) is not str:
        name = options.idempotency_field
        raise RefusedCallError(call, 400, f"{name} must be a string", field=name[:1].upper() + name[1:])
    found = member if type(member) is str and member else None
    return found if options.idempotency == "field" else header or found
