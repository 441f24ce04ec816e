# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a usage request says, and what is decided on it. The decision follows from the body alone.

The four decisions are LimitRail's; the names of the members, and what leads to which decision, are made up.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from limio_limitrail.emulator.limitrail_problems import RefusedCallError
from limio_limitrail.emulator.limitrail_records import UsageRequest
from limio_limitrail.emulator.literals import finite_decimal, read_json

if TYPE_CHECKING:
    from limio_limitrail.emulator.exchange import Call
    from limio_limitrail.emulator.limitrail_options import LimitRailOptions

ALLOWED, DENIED, WARNING, FEE = "ALLOWED", "DENIED_BY_POLICY", "WARNING", "FEE_CALCULATED"


@dataclass(frozen=True, slots=True)
class Decision:
    """What the policy says to a request."""

    word: str
    fees: list[dict[str, Any]]
    limits: list[dict[str, Any]]

    @property
    def denied(self) -> bool:
        """Whether nothing is to be counted."""
        return self.word == DENIED


def read_body(call: Call, *, may_be_empty: bool = False) -> dict[str, Any]:
    """The object in the body."""
    if may_be_empty and not call.body.strip():
        return {}
    try:
        value = read_json(call.body)
    except (ValueError, RecursionError):
        value = None
    if type(value) is not dict:
        raise RefusedCallError(call, 400, "The body must be a JSON object", code="BODY_INVALID")
    return value


def read_usage(call: Call, value: dict[str, Any]) -> UsageRequest:
    """The usage request in a body; refuses what is missing or of the wrong type, naming the member."""
    for name in ("externalAccount", "operation"):
        if type(value.get(name)) is not str or not value[name]:
            raise _blame(call, name, "is required and must be a string")
    exact = finite_decimal(value.get("amount"))
    if exact is None or exact < 0:
        raise _blame(call, "amount", "is required and must be a finite decimal of at least 0")
    currency, metadata = value.get("currency"), value.get("metadata")
    if currency is not None and type(currency) is not str:
        raise _blame(call, "currency", "must be a string")
    if metadata is not None and type(metadata) is not dict:
        raise _blame(call, "metadata", "must be an object")
    return UsageRequest(
        account=value["externalAccount"],
        operation=value["operation"],
        amount=value["amount"],
        currency=currency,
        metadata=metadata,
    )


def decide(request: UsageRequest, options: LimitRailOptions) -> Decision:
    """What the policy says."""
    amount = Decimal(request.amount)
    if amount > options.deny_above:
        return Decision(DENIED, [], [_limit(request, options.deny_above)])
    if amount > options.warn_above:
        return Decision(WARNING, [], [_limit(request, options.deny_above)])
    if request.operation in options.fee_operations:
        currency = request.currency or options.default_currency
        fee = {"code": f"{request.operation}_FEE", "amount": str(options.fee_amount), "currency": currency}
        return Decision(FEE, [fee], [])
    return Decision(ALLOWED, [], [])


def _limit(request: UsageRequest, limit: Decimal) -> dict[str, Any]:
    return {"code": "SINGLE_AMOUNT", "limit": str(limit), "amount": request.amount}


def _blame(call: Call, name: str, what: str) -> RefusedCallError:
    return RefusedCallError(call, 400, f"{name} {what}", field=name[:1].upper() + name[1:])
