# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A clock that goes on while the machine is suspended."""

from __future__ import annotations

import time

_BOOT = getattr(time, "CLOCK_BOOTTIME", None)


class _Uptime:
    def __init__(self) -> None:
        self._ahead = 0.0
        self._apart = time.time() - self._since_boot()

    @staticmethod
    def _since_boot() -> float:
        # Linux stops its monotonic clock with the machine.
        return time.monotonic() if _BOOT is None else time.clock_gettime(_BOOT)

    def __call__(self) -> float:
        """Return monotonic seconds."""
        now = self._since_boot()
        # A virtual machine that its host has suspended can only see that by the time of day.
        self._ahead = max(self._ahead, time.time() - now - self._apart)
        return now + self._ahead


uptime = _Uptime()
