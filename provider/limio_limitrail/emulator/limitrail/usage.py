# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""LimitRail's usage endpoints: commit, preview, reserve, and commit or cancel a reservation.

The path ``/v1/usage/commit`` and the four decisions are LimitRail's; the other paths, all members, and what leads to
which decision, are made up.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

from limio_limitrail.emulator.core.http_messages import json_reply
from limio_limitrail.emulator.limitrail.errors import ProblemError, trace_id
from limio_limitrail.emulator.limitrail.records import (
    REQUEST_MEMBERS,
    Reservation,
    UsageRecord,
    finite_decimal,
    loads_exact,
    new_id,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from limio_limitrail.emulator.core.http_messages import Call, Reply
    from limio_limitrail.emulator.limitrail.account import LimitRailAccount
    from limio_limitrail.emulator.options import LimitRailOptions

    #: Carries out a request, given its tenant, its body and its idempotency key.
    Operation = Callable[[Call, str, dict[str, Any], str | None], Reply]
    #: The decision, its fees and its limits.
    Decision = tuple[str, list[dict[str, Any]], list[dict[str, Any]]]

ALLOWED, DENIED, WARNING, FEE = "ALLOWED", "DENIED_BY_POLICY", "WARNING", "FEE_CALCULATED"


def read_body(call: Call, *, may_be_empty: bool = False) -> dict[str, Any]:
    """Return the object in the body. ProblemError when there is none."""
    if may_be_empty and not call.body.strip():
        return {}
    try:
        value = loads_exact(call.body)
    except (ValueError, RecursionError):
        value = None
    if type(value) is not dict:
        raise ProblemError(call, 400, "The body must be a JSON object", code="BODY_INVALID")
    return value


def read_usage(call: Call, value: dict[str, Any]) -> dict[str, Any]:
    """Return the members of a usage request. ProblemError names the member that is missing or of the wrong type."""
    for name in ("externalAccount", "operation"):
        if type(value.get(name)) is not str or not value[name]:
            raise _invalid(call, name, "is required and must be a string")
    exact = finite_decimal(value.get("amount"))
    if exact is None or exact < 0:
        raise _invalid(call, "amount", "is required and must be a finite decimal of at least 0")
    for name, kind, noun in (("currency", str, "a string"), ("metadata", dict, "an object")):
        if value.get(name) is not None and type(value[name]) is not kind:
            raise _invalid(call, name, f"must be {noun}")
    return {name: value.get(name) for name in REQUEST_MEMBERS}


def _invalid(call: Call, name: str, detail: str) -> ProblemError:
    return ProblemError(call, 400, f"{name} {detail}", field=name[:1].upper() + name[1:])


def decide(request: dict[str, Any], options: LimitRailOptions) -> Decision:
    """Return the decision on a request, which follows from its members alone, its fees and the limits it exceeds."""
    amount, operation = Decimal(request["amount"]), request["operation"]
    if amount > options.warn_above or amount > options.deny_above:
        limit = {"code": "SINGLE_AMOUNT", "limit": str(options.deny_above), "amount": request["amount"]}
        return DENIED if amount > options.deny_above else WARNING, [], [limit]
    if operation in options.fee_operations:
        currency = request["currency"] or options.default_currency
        fee = {"code": f"{operation}_FEE", "amount": str(options.fee_amount), "currency": currency}
        return FEE, [fee], []
    return ALLOWED, [], []


def idempotency_key(call: Call, value: dict[str, Any], options: LimitRailOptions) -> str | None:
    """Return the idempotency key of a request, from where the options look for it; with ``off`` from anywhere."""
    header = call.headers.get(options.idempotency_header.lower()) or None
    member = value.get(options.idempotency_field)
    if options.idempotency == "header":
        return header
    if options.idempotency == "field" and member is not None and type(member) is not str:
        raise _invalid(call, options.idempotency_field, "must be a string")
    found = member if type(member) is str and member else None
    return found if options.idempotency == "field" else header or found


class UsageEndpoints:
    """The endpoints that write."""

    def __init__(self, account: LimitRailAccount) -> None:
        self._account = account
        self._journal = account.journal_store
        #: The successful replies, each with the body of its request, by tenant, path and idempotency key.
        self._replies: dict[tuple[str, str, str], tuple[bytes, Reply]] = {}

    def preview(self, call: Call, tenant: str) -> Reply:
        """Return the decision on a request, and count nothing."""
        _, (outcome, fees, limits) = self._evaluate(call, tenant, read_body(call))
        self._account.previews += 1
        return _reply(outcome, usageId=None, fees=fees, impactedLimits=limits)

    def commit(self, call: Call, tenant: str) -> Reply:
        """Count usage at once."""
        return self._idempotent(call, tenant, self._commit)

    def reserve(self, call: Call, tenant: str) -> Reply:
        """Set capacity aside, to be committed or cancelled."""
        return self._idempotent(call, tenant, self._reserve)

    def close_reservation(self, call: Call, tenant: str, id_: str, action: str) -> Reply:
        """Count (``commit``) or release (``cancel``) what was reserved."""
        return self._idempotent(call, tenant, partial(self._close, action, id_), may_be_empty=True)

    def _idempotent(self, call: Call, tenant: str, operation: Operation, *, may_be_empty: bool = False) -> Reply:
        """Carry out a request, or replay the successful reply that its key has had; 409 when that had another body."""
        value = read_body(call, may_be_empty=may_be_empty)
        options = self._account.options
        key = idempotency_key(call, value, options)
        if key is None or options.idempotency == "off":
            return operation(call, tenant, value, key)
        body, reply = self._replies.get((tenant, call.path, key), (call.body, None))
        if body != call.body:
            raise ProblemError(call, 409, "The idempotency key was used with another body", code="IDEMPOTENCY_KEY_REUSED")
        if reply is not None:
            return replace(reply, headers={**reply.headers, "idempotency-replayed": "true"})
        reply = operation(call, tenant, value, key)  # an error is raised, and so never kept
        self._replies[tenant, call.path, key] = call.body, reply
        return reply

    def _evaluate(self, call: Call, tenant: str, value: dict[str, Any]) -> tuple[dict[str, Any], Decision]:
        request = read_usage(call, value)
        if not self._account.has_account(tenant, request["externalAccount"]):
            raise ProblemError(call, 404, "There is no such external account", code="ACCOUNT_NOT_FOUND")
        known = self._account.options.operations
        if known is not None and request["operation"] not in known:
            raise ProblemError(call, 422, "There is no such operation", code="OPERATION_UNKNOWN", field="Operation")
        return request, decide(request, self._account.options)

    def _commit(self, call: Call, tenant: str, value: dict[str, Any], key: str | None) -> Reply:
        request, (outcome, fees, limits) = self._evaluate(call, tenant, value)
        at, usage_id = self._journal.now(), None
        if outcome != DENIED:
            usage_id = new_id("use")
            usage = UsageRecord(id=usage_id, request=request, decision=outcome, key=key, reservation_id=None, at=at)
            self._account.usage[tenant].add(usage)
        self._journal.record(call, "commit", tenant=tenant, key=key, decision=outcome, usage_id=usage_id, at=at)
        return _reply(outcome, usageId=usage_id, fees=fees, impactedLimits=limits)

    def _reserve(self, call: Call, tenant: str, value: dict[str, Any], key: str | None) -> Reply:
        request, (outcome, fees, limits) = self._evaluate(call, tenant, value)
        at, id_ = self._journal.now(), None
        if outcome != DENIED:
            id_ = new_id("rsv")
            self._account.reservations[tenant].add(Reservation(id=id_, request=request, decision=outcome, key=key, at=at))
        self._journal.record(call, "reserve", tenant=tenant, key=key, decision=outcome, reservation_id=id_, at=at)
        return _reply(outcome, usageId=None, reservationId=id_, fees=fees, impactedLimits=limits)

    def _close(self, action: str, id_: str, call: Call, tenant: str, value: dict[str, Any], key: str | None) -> Reply:  # noqa: ARG002
        reservation = self._account.reservations[tenant].find(id_)
        if reservation is None:
            raise ProblemError(call, 404, "There is no such reservation", code="RESERVATION_NOT_FOUND")
        if reservation.state != "OPEN":
            raise ProblemError(call, 409, f"The reservation is {reservation.state}", code="RESERVATION_CLOSED")
        at, usage_id = self._journal.now(), None
        if action == "commit":
            usage_id = new_id("use")
            usage = UsageRecord(id=usage_id, request=reservation.request, decision=ALLOWED, key=key, reservation_id=id_, at=at)
            self._account.usage[tenant].add(usage)
        reservation.state, reservation.closed = "COMMITTED" if action == "commit" else "CANCELLED", at
        reservation.usage_id = usage_id
        made = {"usage_id": usage_id, "reservation_id": id_}
        self._journal.record(call, f"{action}_reservation", tenant=tenant, key=key, decision=ALLOWED, at=at, **made)
        return _reply(ALLOWED, **({"usageId": usage_id} if usage_id else {}), reservationId=id_)


def _reply(decision: str, **members: Any) -> Reply:
    return json_reply(200, {"decision": decision, **members, "traceId": trace_id()})
