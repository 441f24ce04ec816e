# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Wait in the triggerer. It only reads there, and each poll runs in a thread, so that the event loop never waits."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from airflow.triggers.base import BaseTrigger, TriggerEvent

from limio_limitrail.polling.poll import EventKind, PollTimeoutError, WaitSpec, event_of
from limio_limitrail.stored_formats import trouble
from limio_limitrail.triggers.connection import ConnectionMixin
from limio_limitrail.triggers.threads import import_in_thread, seconds_left

KWARGS_FORMAT = 1
"""The format of the arguments with which Airflow stores a trigger."""


def unsupported(format_version: object) -> str | None:
    """Return why a stored trigger cannot be made, as the end of a sentence that starts with it; None if it can."""
    return trouble(format_version, reads=KWARGS_FORMAT)


class WaitTrigger(ConnectionMixin, BaseTrigger):
    """Poll until a condition is met, cannot be met any more, or the deadline. Arguments as for `WaitSpec`, and:

    :param format_version: the format of the arguments.
    """

    def __new__(cls, *, format_version: object = KWARGS_FORMAT, **kwargs: Any) -> Any:
        """Make one that only says so if a newer version has stored it: its arguments may have another meaning."""
        reason = unsupported(format_version)
        if reason is None:
            return super().__new__(cls)
        return UnsupportedTrigger(of=cls, kwargs={"format_version": format_version, **kwargs}, reason=reason)

    def __init__(self, *, format_version: int = KWARGS_FORMAT, **kwargs: Any) -> None:  # noqa: ARG002 - read above
        super().__init__()  # type: ignore[no-untyped-call] # Airflow's own has no types
        self.spec = WaitSpec(**kwargs)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class and its arguments. Nothing in them is secret."""
        kwargs = {"format_version": KWARGS_FORMAT, **msgspec.structs.asdict(self.spec), **self.connection_kwargs()}
        return f"{type(self).__module__}.{type(self).__qualname__}", kwargs

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll until there is an event. An unexpected error ends the wait as failed."""
        try:
            event = await self._wait()
        except Exception as error:  # noqa: BLE001 - a trigger that dies tells its task nothing
            from limio_limitrail.api.redact import safe_error

            event = event_of(EventKind.ENDED, f"the wait broke: {safe_error(error)}")
        yield TriggerEvent(event)  # type: ignore[no-untyped-call] # as above

    async def _wait(self) -> dict[str, Any]:
        # From here on a monotonic clock counts: a wall clock that is corrected meanwhile neither ends nor prolongs a wait.
        end = time.monotonic() + self.spec.deadline - time.time()
        not_before = self.spec.not_before - time.time()
        try:
            with self.connection_in_use():
                await import_in_thread("limio_limitrail.triggers.poll_loops", within=seconds_left(end))
                from limio_limitrail.triggers.poll_loops import poll_until

                return await poll_until(end, self.spec, connection=self, not_before=not_before, log=self.log)
        except PollTimeoutError as error:
            # Before the deadline, this is not a poll, but what has to be done before the first one.
            if time.monotonic() >= end:
                return event_of(EventKind.TIMEOUT, f"waiting for the first poll: {error}")
            return event_of(EventKind.NO_ANSWER, str(error))


class UnsupportedTrigger(BaseTrigger):
    """Replaces a trigger that a newer version has stored, and tells its task so."""

    def __init__(self, *, of: type[BaseTrigger], kwargs: dict[str, Any], reason: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # as above
        self.of = of
        self.kwargs = kwargs
        self.reason = reason

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what it replaces."""
        return f"{self.of.__module__}.{self.of.__qualname__}", self.kwargs

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """End the wait in a way that lets a retry of the task start it again."""
        message = (
            f"The trigger of the wait {self.reason}. A retry of the task starts a new wait with this version; or run that one"
        )
        yield TriggerEvent(event_of(EventKind.NO_ANSWER, message))  # type: ignore[no-untyped-call] # as above
