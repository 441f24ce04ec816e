# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The operations on usage: path, scope and what a response must hold, one table row each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from limio_limitrail.api.errors import ParameterError

USAGE_SCOPE = "limitrail.usage.write"
"""What ``/v1/usage/commit`` needs (LimitRail developer console)."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """An endpoint that takes one usage row per request, by POST.

    :param short_name: the value of the operator's parameter ``operation``.
    :param name: its name in the ledger, the log and the connection's ``paths``. Idempotency keys contain it instead of the path,
        so that correcting a path does not change them.
    :param decides: whether its response must hold a decision.
    :param assumed: what no document confirms.
    """

    short_name: str
    name: str
    path: str
    scope: str = USAGE_SCOPE
    decides: bool = True
    changes: bool = True
    assumed: tuple[str, ...] = ()


_BODIES = "the fields of request and answer"
_UNDOCUMENTED = ("the path", "the scope", _BODIES)
_RESERVATION = "/v1/usage/reservations/{reservation_id}"

_ROWS = (
    Operation(short_name="commit", name="usage.commit", path="/v1/usage/commit", assumed=("the method POST", _BODIES)),
    Operation(short_name="preview", name="usage.preview", path="/v1/usage/preview", changes=False, assumed=_UNDOCUMENTED),
    Operation(short_name="reserve", name="usage.reserve", path="/v1/usage/reserve", assumed=_UNDOCUMENTED),
    *(
        Operation(
            short_name=f"{verb}_reservation",
            name=f"usage.{verb}_reservation",
            path=f"{_RESERVATION}/{verb}",
            decides=False,
            assumed=_UNDOCUMENTED,
        )
        for verb in ("commit", "cancel")
    ),
)

OPERATIONS: Mapping[str, Operation] = MappingProxyType({row.short_name: row for row in _ROWS})
"""Every operation by its short name. That LimitRail previews, reserves, commits and cancels is public (LimitRail docs)."""


def find_operation(short_name: str) -> Operation:
    """Return an operation."""
    try:
        return OPERATIONS[short_name]
    except KeyError:
        raise ParameterError(f"operation={short_name!r} is none of {', '.join(OPERATIONS)}") from None
