# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Send one usage row, and judge what became of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

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
from limio_limitrail.api.responses import SURPLUS, Provenance
from limio_limitrail.api.retry import Repeat, call_with_retries_async, is_not_processed, is_transient
from limio_limitrail.usage.clock import uptime
from limio_limitrail.usage.ledger.model import OnUnknown, Outcome, State, UsageRow
from limio_limitrail.usage.ledger.rules import RESEND_WITHIN, resolve
from limio_limitrail.usage.messages import (
    AnswerReading,
    MisplacedAnswerError,
    misplaced,
    outcome_of,
    read_answer,
    undecided,
)
from limio_limitrail.usage.response_ids import AnswerIds, Owner
from limio_limitrail.usage.response_mapping import ResponseMapping
from limio_limitrail.usage.send_loop import Abort, EndedError, Provisional, RateLimited, Result, Uncertain, Wait

if TYPE_CHECKING:
    from limio_limitrail.api.async_client import AsyncApiClient
    from limio_limitrail.usage.operations import Operation

_REFUSALS = (InvalidRequestError, NotFoundError, ConflictError, PageTooLargeError)

_TIMED_OUT = 408
"""Says that the request came too slowly, and not how much of it was carried out."""

REST = 0.01
"""Seconds in which a connection is not used again after an answer: an answer that comes twice mostly does so at once."""

SETTLES = 0.02
"""Seconds in which a refusal may turn out to be another row's."""

_PROXY_WANTS_CREDENTIALS = 407
"""Comes from a proxy on the way: the request has not reached the API."""


@dataclass(frozen=True, kw_only=True)
class UsageSender:
    """Sends rows to one endpoint, out of one event loop.

    :param client: sends the requests.
    :param operation: what is done with the rows.
    :param reading: where an answer says what.
    :param key_header: the header that takes the idempotency key; none where the body does.
    :param on_unknown: whether a row that may have been carried out is sent again.
    :param resend_within: seconds after its first try in which that may be done.
    :param response: what refusals mean beyond what is documented.
    :param keep_answers: whether outcomes keep whole answers.
    """

    client: AsyncApiClient
    operation: Operation
    reading: AnswerReading
    key_header: str | None
    on_unknown: OnUnknown
    resend_within: float = RESEND_WITHIN
    response: ResponseMapping = field(default_factory=ResponseMapping)
    keep_answers: bool = False
    ids: AnswerIds = field(default_factory=AnswerIds, init=False, repr=False, compare=False)

    async def __call__(self, row: UsageRow, wait: Wait, /) -> Result:
        """Send a row.

        A 429 is not waited for here, because all rows are to wait; unless an earlier try of the row is in doubt, which
        only this one can clear up.
        """
        resends = self.on_unknown is OnUnknown.RESEND
        in_doubt = self.on_unknown.in_doubt
        doubts: list[ApiError] = []
        began = uptime()

        async def send_once() -> Outcome:
            if doubts and uptime() - began > self.resend_within:
                raise EndedError
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
        except EndedError:
            if not doubts:
                # Every try so far has certainly left nothing done.
                raise
            return Uncertain(outcome=outcome_of(doubts[-1], state=in_doubt), cause=doubts[-1])
        except ApiError as error:
            result = self._failed(error, in_doubt=in_doubt)
            if earlier := [doubt for doubt in doubts if doubt is not error]:
                if isinstance(result, Abort | RateLimited):
                    # It says nothing of the earlier tries.
                    return Uncertain(outcome=outcome_of(earlier[-1], state=in_doubt), cause=error)
                if isinstance(result, Outcome):
                    return resolve(result, in_doubt=True)
            return result
        if outcome.state is State.PARKED:
            return Uncertain(outcome=outcome, cause=undecided(outcome, path=row.path, operation=self.operation.name))
        return outcome

    async def close(self) -> None:
        """Close all connections."""
        await self.client.close()

    async def _ask(self, row: UsageRow) -> Outcome:
        """Send a request, and read its answer.

        :raises MisplacedAnswerError: the answer may be another row's.
        :raises ApiError: it is a refusal, or did not come.
        """
        try:
            answer = await self.client.send(
                method="POST",
                path=row.path,
                content=row.body,
                headers={self.key_header: row.key} if self.key_header else {},
                resource=self.operation.name,
                scope=self.operation.scope,
                repeat=Repeat.NONE,
            )
        except ApiError as error:
            refusal = outcome_of(error, state=State.COMMITTED)
            provenance = error.context.provenance
            if provenance is not None and self._owner(refusal, row=row, provenance=provenance) is not Owner.THIS_ROW:
                if provenance.number > 1:
                    await asyncio.sleep(SETTLES)
                if provenance.is_in_doubt:
                    raise self._misplaced(refusal, row=row) from None
            if self.response.is_committed(status=error.status, error_code=error.context.problem.error_code):
                return replace(refusal, detail=f"refused as already committed: {refusal.detail}")
            raise
        outcome = read_answer(answer, reading=self.reading, keep=self.keep_answers)
        provenance = answer.provenance
        del answer  # what it echoes is not for an error's frames
        if provenance is None or self._owner(outcome, row=row, provenance=provenance) is Owner.THIS_ROW or provenance.number == 1:
            return outcome
        return Provisional(**vars(outcome), recheck=partial(self._recheck, outcome, row=row, provenance=provenance))

    def _owner(self, outcome: Outcome, *, row: UsageRow, provenance: Provenance) -> Owner:
        """Say whose answer an answer is. Where it bears no id, what comes over its connection later may tell.

        :raises MisplacedAnswerError: it may be another row's, by what is known now.
        """
        ids = (outcome.trace_id, outcome.reservation_id)
        owner = self.ids.owner(ids, row=row, connection=provenance.connection)
        if owner is Owner.ANOTHER_ROW:
            provenance.connection.distrusted = True
            raise self._misplaced(outcome, row=row, reason="another row's answer on the same connection had the same id")
        if owner is Owner.UNKNOWN and provenance.is_in_doubt:
            raise self._misplaced(outcome, row=row)
        return owner

    def _recheck(self, outcome: Outcome, *, row: UsageRow, provenance: Provenance) -> Uncertain | None:
        """Say what becomes of an outcome now that it is written down; None where it stands. Any thread may ask."""
        if not provenance.is_in_doubt:
            return None
        error = self._misplaced(outcome, row=row)
        return Uncertain(outcome=outcome_of(error, state=self.on_unknown.in_doubt), cause=error, adds_up=True)

    def _misplaced(self, outcome: Outcome, *, row: UsageRow, reason: str = SURPLUS) -> MisplacedAnswerError:
        return misplaced(outcome, path=row.path, operation=self.operation.name, reason=reason)

    def _failed(self, error: ApiError, *, in_doubt: State) -> Result:
        about_the_client = isinstance(error, CredentialsError | ScopeError) or error.status == _PROXY_WANTS_CREDENTIALS
        if not error.context.reached or about_the_client:
            return Abort(cause=error)
        if isinstance(error, RateLimitError):
            if (error.retry_after or 0.0) > self.client.parent.limits.longest_retry_after:
                return Abort(cause=error)
            return RateLimited(retry_after=error.retry_after, cause=error)
        # An answer that is too large to be read is none of these: the API may have done what was asked.
        if isinstance(error, _REFUSALS) and error.status != _TIMED_OUT and not isinstance(error, ResponseTooLargeError):
            return outcome_of(error, state=State.REJECTED)
        is_misplaced = isinstance(error, MisplacedAnswerError)
        return Uncertain(outcome=outcome_of(error, state=in_doubt), cause=error, adds_up=is_misplaced)
