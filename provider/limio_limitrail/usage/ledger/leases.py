# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Whether the worker that has claimed a row may still send it: by proof, by the shared clock, or by watching its lease."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from limio_limitrail.usage.ledger.model import Entry, Worker
from limio_limitrail.usage.ledger.process_lock import Presence, Proof
from limio_limitrail.usage.ledger.rules import is_alive, is_superseded

log = logging.getLogger("limio_limitrail.usage.ledger")

TELL_EVERY = 5.0
"""Seconds after which it is said again who is waited for."""

_SLACK = 5.0
"""Seconds by which a lease may lie further ahead than a lease is long before a clock must have been wrong."""

LONGEST_SKEW = 86_400.0
"""Seconds by which no clock is wrong: a lease that ended longer ago has ended, whoever wrote it."""


class Liveness:
    """Judges the workers that have claimed rows. For one ledger.

    :param presence: what can be proved.
    :param has_clock: whether all workers share a clock; else, and where a clock must have been wrong, a worker counts as dead
        when its lease has not moved for as long as a lease is, by this process's own monotonic clock.
    """

    def __init__(self, presence: Presence, *, has_clock: bool) -> None:
        self.presence = presence
        self._has_clock = has_clock
        self._told_at = float("-inf")
        self._watched: dict[str, tuple[str, int, float]] = {}

    def is_alive(self, key: str, entry: Entry, *, me: Worker, now: int, lease: float) -> bool:
        """Tell whether the worker that has claimed a row may still send it.

        :param key: the row's.
        :param entry: what the ledger holds of it, in the state ``sending``.
        :param me: who asks.
        :param now: the ledger's time, in milliseconds since 1970.
        :param lease: seconds that a lease lasts.
        """
        if is_superseded(entry, me=me):
            return False
        proof = self.presence.proof_of(entry.worker.claim_id)
        if proof is Proof.GONE:
            return False
        ahead = (entry.lease_until - now) / 1000
        if proof is None and self._has_clock and ahead <= lease + _SLACK:
            return is_alive(entry, me=me, now=now)
        if proof is None and ahead < -LONGEST_SKEW:
            return False
        return self._moves(key, entry, lease=lease)

    def may_live(self, entry: Entry, *, me: Worker, now: int, lease: float) -> bool:
        """Tell the same at first sight, without watching a lease that a wrong clock has written."""
        if is_superseded(entry, me=me):
            return False
        proof = self.presence.proof_of(entry.worker.claim_id)
        return proof is Proof.THERE or (proof is None and 0 < entry.lease_until - now <= 1000 * (lease + _SLACK))

    def tell(self, waits: Sequence[Entry], *, lease: float) -> None:
        """Say now and then who is waited for."""
        if not waits or time.monotonic() - self._told_at < TELL_EVERY:
            return
        self._told_at = time.monotonic()
        one = waits[0].worker
        log.info(
            "%d rows, or more, are being sent by others, such as try %d of task %s.%s in run %s; they are waited for until they "
            "have an outcome, or that worker has given no sign of life for %.0f s.",
            len(waits),
            one.try_number,
            one.dag_id,
            one.task_id,
            one.run_id,
            lease,
        )

    def _moves(self, key: str, entry: Entry, *, lease: float) -> bool:
        last = self._watched.get(key)
        if last is None or last[:2] != (entry.worker.claim_id, entry.lease_until):
            last = self._watched[key] = (entry.worker.claim_id, entry.lease_until, time.monotonic())
        return time.monotonic() - last[2] < lease
