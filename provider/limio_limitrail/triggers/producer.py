# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What Airflow 3.3 asks to look for all watches of one list, and tells when it has kept an event."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable, Sequence
from typing import TYPE_CHECKING

from airflow.triggers.shared_stream import AdvanceItem, SharedStreamProducer

from limio_limitrail.triggers.poll_loop import looks
from limio_limitrail.triggers.shared_poll import PollRound, shared_poll_of

if TYPE_CHECKING:
    from limio_limitrail.triggers.events import ResourceEventTrigger


class WatchProducer(SharedStreamProducer):
    """Look for all watches that share a loop.

    :param trigger: one of them.
    """

    def __init__(self, trigger: ResourceEventTrigger) -> None:
        self.trigger = trigger

    async def open_stream(self) -> AsyncIterator[tuple[PollRound, PollRound]]:
        """Look again and again."""
        # What was announced before a restart and may not have been heard need not wait for the API to answer.
        first = PollRound()
        yield first, first
        with self.trigger.connection_in_use():
            async for finding in looks(self.trigger, shared_poll_of(self.trigger.shared_stream_key())):
                yield finding, finding

    def get_advance_lane(self, broker_payload: PollRound) -> Hashable:
        """Let no finding wait for another: a watch that hangs holds up what others have announced since."""
        return broker_payload

    async def advance(self, batch: Sequence[AdvanceItem]) -> None:
        """Note that events were kept. Those of which that is not sure are announced again after a restart."""
        for item in batch:
            if item.outcome.is_clean:
                await item.broker_payload.acknowledge()
