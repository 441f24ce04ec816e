# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What Airflow 3.3 runs once for all watches of one list, and tells when it has stored an event. Airflow 3.2 cannot import it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Hashable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from airflow.triggers.shared_stream import AdvanceItem, SharedStreamProducer

if TYPE_CHECKING:
    from limio_limitrail.triggers.watch import PollRound


class WatchProducer(SharedStreamProducer):
    """Poll for all watches that share a loop."""

    def __init__(self, rounds: Callable[[], AsyncGenerator[PollRound]]) -> None:
        self.rounds = rounds

    async def open_stream(self) -> AsyncIterator[tuple[PollRound, PollRound]]:
        """Return the rounds of the loop."""
        async with aclosing(self.rounds()) as rounds:
            async for poll_round in rounds:
                yield poll_round, poll_round

    def get_advance_lane(self, broker_payload: PollRound) -> Hashable:
        """Let no round wait for another: a watch that hangs does not delay the acknowledgement of others' events."""
        return broker_payload

    async def advance(self, batch: Sequence[AdvanceItem]) -> None:
        """Note that events were stored. Those for which that is uncertain are emitted again after a restart."""
        for item in batch:
            if item.outcome.is_clean:
                await item.broker_payload.acknowledge()
