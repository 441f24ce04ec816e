# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Abandoned baskets of the emulator, to watch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from limio_limitrail.emulator import EmulatorServer
from limio_limitrail.triggers.limio import LimioResourceEventTrigger

PATH = "/api/checkout/abandoned"
PERSONAL = "jane.doe@example.com"
"""A value of every basket that is nobody's business."""


def watch(**more: Any) -> LimioResourceEventTrigger:
    """A watch of the baskets that looks often."""
    return LimioResourceEventTrigger(**{"resource": "abandoned_baskets", "poke_interval": 0.1, "overlap": 60, **more})


class Baskets:
    """The tenant's abandoned baskets: none at first."""

    def __init__(self, server: EmulatorServer) -> None:
        self.server = server
        self.shown: list[dict[str, Any]] = []
        self.add()

    def add(self, *numbers: int, when: datetime | None = None, **more: Any) -> list[str]:
        """Add some, left now or at another time, and give their ids."""
        created = (when or datetime.now(tz=UTC)).isoformat().replace("+00:00", "Z")
        made = [
            {"id": f"basket-{number}", "created": created, "number": number, "customer": {"email": PERSONAL}, **more}
            for number in numbers
        ]
        self.shown = [*self.shown, *made]
        self.server.put_records("checkout/abandoned", self.shown)
        return [one["id"] for one in made]

    def asked(self) -> list[dict[str, Any]]:
        """The requests for them so far."""
        return [entry for entry in self.server.counters.log if entry["path"] == PATH]

    def looked(self, *, times: int = 2) -> Callable[[], bool]:
        """Tell whether they were asked for so many times more, and answered."""
        before = len(self.asked())
        return lambda: sum(entry["status"] is not None for entry in self.asked()) >= before + times


class LoopTicks:
    """Whether an event loop goes on while something else happens, in whatever thread."""

    def __init__(self) -> None:
        self.waited = 0
        """How often somebody has waited for it to go on."""
        self.stopped = 0
        """How often it did not."""
        self._ticks = 0

    async def run(self) -> None:
        """Tick, in the loop."""
        while True:
            self._ticks += 1
            await asyncio.sleep(0.005)

    def wait_for_more(self) -> None:
        """Wait until it has ticked a few times more: what holds up the loop meanwhile does so for ever, and is found out."""
        self.waited += 1
        end, last = time.monotonic() + 20, self._ticks
        while self._ticks < last + 3 and not self.stopped:
            if time.monotonic() > end:
                self.stopped += 1
                return
            time.sleep(0.005)
