# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Commit usage: rows become requests; the ledger records each before it is sent and after it is answered.

May import `api`, `landing`, `parameters` and `observability`; `hooks` and `operators` import it.
Begin with `committer` (the loop over rows), then `ledger.rules` and `ledger.ledger`.

The states of a row (`ledger.states.State`; the ledger holds one entry per row)::

                          clear answer
    (new) ──> sending ─────────────────────────────> committed, denied
                │  │      refused, never uncertain
                │  └───────────────────────────────> rejected ── replay="rejected" ──> sending
                │ no clear answer, or the worker died (its lease ended, its process is gone)
                v
             unknown (on_unknown="resend") ── within resend_within ──> sending
                │ older, or refused when it was sent again
                v
             parked (on_unknown="park") ── replay="parked" ──> sending
                └── a settlement ──> committed, denied, given_up
                                 ──> free ──> sending

The threads of a task::

    main thread (UsageCommitter)                          thread "usage" (SendLoop: one asyncio event loop)
    rows ──> RowBuffer ──> Ledger.claim ── claims ──────> AdaptiveConcurrencyLimiter ──> UsageSender ──> LimitRail
             Ledger.record <────────────── outcomes ───── (throttles: AIMD, rate limits pause all)
             Ledger.renew: the heartbeat that extends the leases of the rows in flight
"""

from typing import TYPE_CHECKING

from limio_limitrail.lazy import lazy_names

if TYPE_CHECKING:
    from limio_limitrail.usage.approval import UsageApproval
    from limio_limitrail.usage.body import Column, Json, Text
    from limio_limitrail.usage.conventions import Idempotency, Refusal, ResponseMapping
    from limio_limitrail.usage.degraded import UsageWarning
    from limio_limitrail.usage.dry_run import UsageDryRunSummary
    from limio_limitrail.usage.reconciliation.summary import UsageReconciliationSummary
    from limio_limitrail.usage.settling import UsageSettlementSummary
    from limio_limitrail.usage.summary import UsageCommitSummary
    from limio_limitrail.usage.template_checks import UsageRequest, check_body, check_requests

__all__ = [
    "Column",
    "Idempotency",
    "Json",
    "Refusal",
    "ResponseMapping",
    "Text",
    "UsageApproval",
    "UsageCommitSummary",
    "UsageDryRunSummary",
    "UsageReconciliationSummary",
    "UsageRequest",
    "UsageSettlementSummary",
    "UsageWarning",
    "check_body",
    "check_requests",
]

__getattr__ = lazy_names(
    __name__,
    modules={
        "limio_limitrail.usage.approval": ("UsageApproval",),
        "limio_limitrail.usage.body": ("Column", "Json", "Text"),
        "limio_limitrail.usage.conventions": ("Idempotency", "Refusal", "ResponseMapping"),
        "limio_limitrail.usage.degraded": ("UsageWarning",),
        "limio_limitrail.usage.dry_run": ("UsageDryRunSummary",),
        "limio_limitrail.usage.reconciliation.summary": ("UsageReconciliationSummary",),
        "limio_limitrail.usage.settling": ("UsageSettlementSummary",),
        "limio_limitrail.usage.summary": ("UsageCommitSummary",),
        "limio_limitrail.usage.template_checks": ("UsageRequest", "check_body", "check_requests"),
    },
)
