# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""LimitRail's usage calls: commit, preview, reserve, and what becomes of a reservation.

Only the path ``/v1/usage/commit`` is public; the other paths and all members are made up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limio_limitrail.emulator.exchange import Call, Reply, answer
from limio_limitrail.emulator.limitrail_policy import ALLOWED, Decision, decide, read_body, read_usage
from limio_limitrail.emulator.limitrail_problems import RefusedCallError, trace_id
from limio_limitrail.emulator.limitrail_records import Reservation, Usage, UsageRequest, new_id
from limio_limitrail.emulator.limitrail_replays import key_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from limio_limitrail.emulator.limitrail_account import LimitRailAccount


class UsageCalls:
    """Carries out the calls that write."""

    def __init__(self, account: LimitRailAccount) -> None:
        self._account = account

    def commit(self, call: Call, tenant: str) -> Reply:
        """Count usage at once."""
        return self._once(call, tenant, read_body(call), self._commit)

    def preview(self, call: Call, tenant: str) -> Reply:
        """Only say what would be decided."""
        _, decision = self._judge(call, tenant, read_body(call))
        self._account.previews += 1
        return _reply(decision.word, usageId=None, fees=decision.fees, impactedLimits=decision.limits)

    def reserve(self, call: Call, tenant: str) -> Reply:
        """Set capacity aside, to be committed or cancelled."""
        return self._once(call, tenant, read_body(call), self._reserve)

    def commit_reservation(self, call: Call, tenant: str, id_: str) -> Reply:
        """Count what was reserved."""

        def carry_out(call: Call, tenant: str, value: dict[str, Any], key: str | None) -> Reply:  # noqa: ARG001
            reservation = self._open(call, tenant, id_)
            moment = self._account.book.now()
            usage = Usage(
                id=new_id("use"),
                request=reservation.request,
                decision=ALLOWED,
                key=key,
                reservation_id=id_,
                at=moment,
            )
            self._account.usage[tenant].add(usage)
            reservation.state, reservation.closed, reservation.usage_id = "COMMITTED", moment, usage.id
            self._note(call, "commit_reservation", tenant, key, ALLOWED, usage.id, id_, moment)
            return _reply(ALLOWED, usageId=usage.id, reservationId=id_)

        return self._once(call, tenant, read_body(call, may_be_empty=True), carry_out)

    def cancel_reservation(self, call: Call, tenant: str, id_: str) -> Reply:
        """Give back what was reserved."""

        def carry_out(call: Call, tenant: str, value: dict[str, Any], key: str | None) -> Reply:  # noqa: ARG001
            reservation = self._open(call, tenant, id_)
            moment = self._account.book.now()
            reservation.state, reservation.closed = "CANCELLED", moment
            self._note(call, "cancel_reservation", tenant, key, ALLOWED, None, id_, moment)
            return _reply(ALLOWED, reservationId=id_)

        return self._once(call, tenant, read_body(call, may_be_empty=True), carry_out)

    def _once(
        self,
        call: Call,
        tenant: str,
        value: dict[str, Any],
        carry_out: Callable[[Call, str, dict[str, Any], str | None], Reply],
    ) -> Reply:
        """Carry out a request, or give the answer again that its key has had."""
        options = self._account.options
        key = key_of(call, value, options)
        if key is None or options.idempotency == "off":
            return carry_out(call, tenant, value, key)
        known = self._account.replays.again(call, tenant, key)
        if known is not None:
            return known
        reply = carry_out(call, tenant, value, key)
        self._account.replays.keep(call, tenant, key, reply)
        return reply

    def _judge(self, call: Call, tenant: str, value: dict[str, Any]) -> tuple[UsageRequest, Decision]:
        request = read_usage(call, value)
        if not self._account.has_account(tenant, request.account):
            raise RefusedCallError(call, 404, "There is no such external account", code="ACCOUNT_NOT_FOUND")
        if not self._account.options.known_operation(request.operation):
            raise RefusedCallError(call, 422, "There is no such operation", code="OPERATION_UNKNOWN", field="Operation")
        return request, decide(request, self._account.options)

    def _commit(self, call: Call, tenant: str, value: dict[str, Any], key: str | None) -> Reply:
        request, decision = self._judge(call, tenant, value)
        moment = self._account.book.now()
        usage_id = None
        if not decision.denied:
            usage_id = new_id("use")
            usage = Usage(
                id=usage_id,
                request=request,
                decision=decision.word,
                key=key,
                reservation_id=None,
                at=moment,
            )
            self._account.usage[tenant].add(usage)
        self._note(call, "commit", tenant, key, decision.word, usage_id, None, moment)
        return _reply(decision.word, usageId=usage_id, fees=decision.fees, impactedLimits=decision.limits)

    def _reserve(self, call: Call, tenant: str, value: dict[str, Any], key: str | None) -> Reply:
        request, decision = self._judge(call, tenant, value)
        moment = self._account.book.now()
        id_ = None
        if not decision.denied:
            id_ = new_id("rsv")
            reservation = Reservation(
                id=id_,
                request=request,
                decision=decision.word,
                key=key,
                at=moment,
            )
            self._account.reservations[tenant].add(reservation)
        self._note(call, "reserve", tenant, key, decision.word, None, id_, moment)
        return _reply(decision.word, usageId=None, reservationId=id_, fees=decision.fees, impactedLimits=decision.limits)

    def _open(self, call: Call, tenant: str, id_: str) -> Reservation:
        reservation = self._account.reservations[tenant].find(id_)
        if reservation is None:
            raise RefusedCallError(call, 404, "There is no such reservation", code="RESERVATION_NOT_FOUND")
        if reservation.state != "OPEN":
            raise RefusedCallError(call, 409, f"The reservation is {reservation.state}", code="RESERVATION_CLOSED")
        return reservation

    def _note(self, call: Call, operation: str, tenant: str, key: str | None, decision: str, *made: Any) -> None:
        usage_id, reservation_id, moment = made
        self._account.book.note(
            tenant=tenant,
            operation=operation,
            key=key,
            body=call.body,
            decision=decision,
            usage_id=usage_id,
            reservation_id=reservation_id,
            at=moment,
        )


def _reply(decision: str, **members: Any) -> Reply:
    return answer(200, {"decision": decision, **members, "traceId": trace_id()})
