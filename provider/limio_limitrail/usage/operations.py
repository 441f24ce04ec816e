# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What can be done with usage: one row for each operation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from limio_limitrail.api.errors import ParameterError

USAGE_SCOPE = "limitrail.usage.write"
"""What ``/v1/usage/commit`` needs (LimitRail developer console)."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """An endpoint that takes one usage row a request, by POST.

    :param mode: what an operator calls it.
    :param name: what the ledger, the log and the connection's ``paths`` call it. Idempotency keys are made with it, so that a
        path that is corrected does not make new keys.
    :param path: where it is; columns of a row may stand in braces.
    :param scope: the scope that it needs.
    :param decides: whether its answer must hold a decision.
    :param changes: whether it changes anything.
    :param assumed: what no document confirms, in words.
    """

    mode: str
    name: str
    path: str
    scope: str = USAGE_SCOPE
    decides: bool = True
    changes: bool = True
    assumed: tuple[str, ...] = ()


_BODIES = "the fields of request and answer"

_ROWS = (
    Operation(mode="commit", name="usage.commit", path="/v1/usage/commit", assumed=("the method POST", _BODIES)),
    Operation(
        mode="preview",
        name="usage.preview",
        path="/v1/usage/preview",
        changes=False,
        assumed=("the path", "the scope", _BODIES),
    ),
    Operation(mode="reserve", name="usage.reserve", path="/v1/usage/reserve", assumed=("the path", "the scope", _BODIES)),
    Operation(
        mode="commit_reservation",
        name="usage.commit_reservation",
        path="/v1/usage/reservations/{reservation_id}/commit",
        decides=False,
        assumed=("the path", "the scope", _BODIES),
    ),
    Operation(
        mode="cancel_reservation",
        name="usage.cancel_reservation",
        path="/v1/usage/reservations/{reservation_id}/cancel",
        decides=False,
        assumed=("the path", "the scope", _BODIES),
    ),
)

OPERATIONS: Mapping[str, Operation] = MappingProxyType({row.mode: row for row in _ROWS})
"""Every operation by its mode. That LimitRail previews, reserves, commits and cancels is public (LimitRail documentation)."""


def find_operation(mode: str) -> Operation:
    """Look an operation up.

    :raises ParameterError: there is none.
    """
    try:
        return OPERATIONS[mode]
    except KeyError:
        raise ParameterError(f"mode={mode!r} is none of {', '.join(OPERATIONS)}") from None
