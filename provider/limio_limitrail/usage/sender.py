# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Send one usage row, retry it as far as that is safe, and return what became of it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from limio_limitrail.api.errors import (
    ApiError,
    ConflictError,
    CredentialsError,
    InvalidRequestError,
    NotFoundError,
    PageTooLargeError,
    RateLimitError,
    ResponseTooLargeError,
    ScopeError,
)
from limio_limitrail.api.request_context import RequestContext
from limio_limitrail.api.responses import SURPLUS, ConnectionRecord, Provenance
from limio_limitrail.api.retry import Repeat, call_with_retries_async, is_not_processed, is_transient
from limio_limitrail.usage.conventions import ResponseMapping
from limio_limitrail.usage.interrupts import uptime
from limio_limitrail.usage.ledger.model import Outcome, UsageRow
from limio_limitrail.usage.ledger.rules import resolve
from limio_limitrail.usage.ledger.states import RESEND_WITHIN, OnUnknown, State
from limio_limitrail.usage.messages import MisplacedAnswerError, UndecidedAnswerError, outcome_of, read_answer
from limio_limitrail.usage.send_loop import Abort, Provisional, RateLimited, Result, SendingStoppedError, Uncertain, Wait

if TYPE_CHECKING:
    from limio_limitrail.api.client import AsyncApiClient
    from limio_limitrail.usage.conventions import Operation

_REFUSALS = (InvalidRequestError, NotFoundError, ConflictError, PageTooLargeError)

_MAX_IDS = 4096
"""Ids that are remembered: a copy arrives soon after its original."""

REST = 0.01
"""Seconds in which a connection rests after an answer: a duplicate mostly arrives at once."""

COPIES_ARRIVE_WITHIN = 0.02
"""Seconds in which a refusal may turn out to be another row's."""

_PROXY_WANTS_CREDENTIALS = 407
"""Sent by a proxy: the request has not reached the API."""


class Owner(Enum):
    """Whose answer an answer is."""

    THIS_ROW = "it has an id that no answer had before, so it is no copy"
    ANOTHER_ROW = "it has the id of another row's answer on the same connection"
    UNKNOWN = "it has no id"


class AnswerIds:
    """The ids of the latest answers. For one event loop."""

    def __init__(self) -> None:
        # A dict passes over all that it has lost to find its first item.
        self._latest: OrderedDict[str, tuple[str, ConnectionRecord]] = OrderedDict()
        self._constant: set[str] = set()

    def owner(self, ids: Iterable[str | None], *, row: UsageRow, connection: ConnectionRecord) -> Owner:
        """Return whose answer an answer is by its trace id and reservation id, and remember them."""
        # All of them are remembered, whatever the first one shows.
        result = Owner.UNKNOWN
        for one in ids:
            if one and _is_id(one):
                owner = self._owner(one, row=row, connection=connection)
                if owner is Owner.ANOTHER_ROW or result is Owner.UNKNOWN:
                    result = owner
        return result

    def _owner(self, one: str, *, row: UsageRow, connection: ConnectionRecord) -> Owner:
        known = self._latest.get(one)
        if known is None:
            self._latest[one] = (row.key, connection)
            if len(self._latest) > _MAX_IDS:
                self._latest.popitem(last=False)
            return Owner.THIS_ROW
        key, where = known
        if key == row.key:
            return Owner.THIS_ROW
        if where is not connection:
            # A copy arrives on the connection of its original: an id on two connections is no id of one answer.
            if len(self._constant) < _MAX_IDS:
                self._constant.add(one)
            return Owner.UNKNOWN
        if one in self._constant or _is_named_by(row, one):
            return Owner.UNKNOWN
        return Owner.ANOTHER_ROW


def _is_id(one: str) -> bool:
    """Return whether a text may be an id: not masked, shortened or all zeros."""
    return bool(one.strip("0-")) and "***" not in one and not one.endswith("…")


def _is_named_by(row: UsageRow, one: str) -> bool:
    """Return whether a request names an id itself: two rows may commit parts of one reservation."""
    return one in row.path or (row.body is not None and one.encode() in row.body)


@dataclass(frozen=True, kw_only=True)
class UsageSender:
    """Sends rows to one endpoint, in one event loop. Without `key_header`, the body carries the idempotency key."""

    client: AsyncApiClient
    operation: Operation
    key_header: str | None
    on_unknown: OnUnknown
    resend_within: float = RESEND_WITHIN
    response: ResponseMapping = field(default_factory=ResponseMapping)
    keep_answers: bool = False
    ids: AnswerIds = field(default_factory=AnswerIds, init=False, repr=False, compare=False)

    async def __call__(self, row: UsageRow, wait: Wait, /) -> Result:
        """Send a row.

        A 429 is not retried here, because all rows are to wait; unless an earlier try of the row is uncertain, which only
        this one can resolve.
        """
        resends = self.on_unknown is OnUnknown.RESEND
        in_doubt = self.on_unknown.in_doubt
        doubts: list[ApiError] = []
        began = uptime()

        async def send_once() -> Outcome:
            if doubts and uptime() - began > self.resend_within:
                raise SendingStoppedError
            try:
                return await self._ask(row)
            except ApiError as error:
                if is_transient(error) and not is_not_processed(error):
                    doubts.append(error)
                elif isinstance(error, RateLimitError) and not doubts:
                    error.retries_exhausted = True
                raise

        try:
            outcome = await call_with_retries_async(
                send_once,
                limits=self.client.parent.limits,
                repeat=Repeat.ANY if resends else Repeat.IF_NOT_PROCESSED,
                sleep=wait,
                on_retry=self.client.parent.count_retry,
            )
        except SendingStoppedError:
            if not doubts:
                # No try so far can have been carried out.
                raise
            return Uncertain(outcome=outcome_of(doubts[-1], state=in_doubt), cause=doubts[-1])
        except ApiError as error:
            result = self._failed(error, in_doubt=in_doubt)
            if earlier := [doubt for doubt in doubts if doubt is not error]:
                if isinstance(result, Abort | RateLimited):
                    # It says nothing about the earlier tries.
                    return Uncertain(outcome=outcome_of(earlier[-1], state=in_doubt), cause=error)
                if isinstance(result, Outcome):
                    return resolve(result, in_doubt=True)
            return result
        if outcome.state is State.PARKED:
            return Uncertain(
                outcome=outcome, cause=UndecidedAnswerError(self._context(outcome, row=row, reason=outcome.detail or ""))
            )
        return outcome

    async def close(self) -> None:
        """Close all connections."""
        await self.client.close()

    async def _ask(self, row: UsageRow) -> Outcome:
        """Send a request, and read its answer; a refusal, none, and one that may be another row's are errors."""
        try:
            answer = await self.client.send_once(
                method="POST",
                path=row.path,
                content=row.body,
                headers={self.key_header: row.key} if self.key_header else {},
                resource=self.operation.name,
                scope=self.operation.scope,
            )
        except ApiError as error:
            refusal = outcome_of(error, state=State.COMMITTED)
            provenance = error.context.provenance
            if provenance is not None and self._owner(refusal, row=row, provenance=provenance) is not Owner.THIS_ROW:
                if provenance.number > 1:
                    await asyncio.sleep(COPIES_ARRIVE_WITHIN)
                if provenance.is_in_doubt:
                    raise self._misplaced(refusal, row=row) from None
            is_known_key = self.response.is_committed(status=error.status, error_code=error.context.problem.error_code)
            if self.operation.changes and is_known_key:
                return msgspec.structs.replace(refusal, detail=f"refused as already committed: {refusal.detail}")
            raise
        outcome = read_answer(answer, response=self.response, required=self.operation.decides, keep=self.keep_answers)
        provenance = answer.provenance
        del answer  # keeps what it echoes out of an error's frames
        if provenance is None or self._owner(outcome, row=row, provenance=provenance) is Owner.THIS_ROW or provenance.number == 1:
            return outcome
        recheck = partial(self._recheck, outcome, row=row, provenance=provenance)
        return Provisional(**msgspec.structs.asdict(outcome), recheck=recheck)

    def _owner(self, outcome: Outcome, *, row: UsageRow, provenance: Provenance) -> Owner:
        """Return whose answer an answer is, unless it may be another row's by what is known now: without an id, what comes over
        its connection later may show it."""
        ids = (outcome.trace_id, outcome.reservation_id)
        owner = self.ids.owner(ids, row=row, connection=provenance.connection)
        if owner is Owner.ANOTHER_ROW:
            provenance.connection.distrusted = True
            raise self._misplaced(outcome, row=row, reason="another row's answer on the same connection had the same id")
        if owner is Owner.UNKNOWN and provenance.is_in_doubt:
            raise self._misplaced(outcome, row=row)
        return owner

    def _recheck(self, outcome: Outcome, *, row: UsageRow, provenance: Provenance) -> Uncertain | None:
        """Return what an outcome has become when it is written down; None if it is unchanged. Thread-safe."""
        if not provenance.is_in_doubt:
            return None
        error = self._misplaced(outcome, row=row)
        return Uncertain(outcome=outcome_of(error, state=self.on_unknown.in_doubt), cause=error, adds_up=True)

    def _misplaced(self, outcome: Outcome, *, row: UsageRow, reason: str = SURPLUS) -> MisplacedAnswerError:
        return MisplacedAnswerError(self._context(outcome, row=row, reason=reason))

    def _context(self, outcome: Outcome, *, row: UsageRow, reason: str) -> RequestContext:
        return RequestContext(
            api="LimitRail",
            resource=self.operation.name,
            method="POST",
            path=row.path,
            status=outcome.http_status,
            reason=reason,
            trace_id=outcome.trace_id,
        )

    def _failed(self, error: ApiError, *, in_doubt: State) -> Result:
        about_the_client = isinstance(error, CredentialsError | ScopeError) or error.status == _PROXY_WANTS_CREDENTIALS
        if not error.context.reached or about_the_client:
            return Abort(cause=error)
        if isinstance(error, RateLimitError):
            if (error.retry_after or 0.0) > self.client.parent.limits.longest_retry_after:
                return Abort(cause=error)
            return RateLimited(retry_after=error.retry_after, cause=error)
        # A response that is too large to be read is uncertain: the API may have carried the row out.
        if isinstance(error, _REFUSALS) and not isinstance(error, ResponseTooLargeError):
            return outcome_of(error, state=State.REJECTED)
        is_misplaced = isinstance(error, MisplacedAnswerError)
        return Uncertain(outcome=outcome_of(error, state=in_doubt), cause=error, adds_up=is_misplaced)
