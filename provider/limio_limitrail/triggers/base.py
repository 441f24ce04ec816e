# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Wait in the triggerer: only reads happen here, and each of them in a thread, so that the event loop never stands still."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from limio_limitrail.triggers.connection import ConnectionMixin
from limio_limitrail.triggers.poll_once import look_once
from limio_limitrail.triggers.poll_slots import LOOKS_AT_ONE_LIST, Lane
from limio_limitrail.triggers.stored_formats import EVENT_FORMAT, KWARGS_FORMAT, unmade
from limio_limitrail.triggers.threads import NotInTimeError, in_thread

LAST_LOOK = 5.0
"""Seconds that a look which begins at the deadline may take. Whatever takes longer ends at the deadline itself."""


class WaitTrigger(ConnectionMixin, BaseTrigger):
    """Look again and again until what is waited for has come, cannot come, or is late.

    :param wait: what is waited for, as plain JSON.
    :param interval: seconds from one look to the next.
    :param deadline: when to give up, in seconds since 1970; the same however often the trigger is moved or restarted.
    :param max_transient_failures: looks in a row that may fail in ways that pass by themselves.
    :param failures: looks in a row that have failed before this trigger was made.
    :param not_before: when the API asked to be asked again, in seconds since 1970.
    :param format_version: what the other arguments mean.
    """

    def __new__(cls, *, format_version: object = 1, **kwargs: Any) -> Any:
        """Make one that only says so where a newer version has made it: of what, this version cannot know."""
        why = unmade(format_version)
        if why is None:
            return super().__new__(cls)
        return UnmadeTrigger(of=cls, kwargs={"format_version": format_version, **kwargs}, why=why)

    def __init__(
        self,
        *,
        wait: dict[str, Any],
        interval: float,
        deadline: float,
        max_transient_failures: int,
        failures: int = 0,
        not_before: float = 0.0,
        format_version: int = 1,  # noqa: ARG002 - looked at before
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)  # type: ignore[no-untyped-call] # Airflow's own has no types
        self.wait = wait
        self.interval = interval
        self.deadline = deadline
        self.max_transient_failures = max_transient_failures
        self.failures = failures
        self.not_before = not_before

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Give what the trigger can be made of again. Nothing in it is secret."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "format_version": KWARGS_FORMAT,
                "wait": self.wait,
                "interval": self.interval,
                "deadline": self.deadline,
                "max_transient_failures": self.max_transient_failures,
                "failures": self.failures,
                "not_before": self.not_before,
                **self.own_kwargs(),
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Sleep and look, until there is something to tell. Whatever goes wrong unforeseen is told as a failure."""
        try:
            event = await self._wait()
        except Exception as error:  # noqa: BLE001 - a trigger that dies tells its task nothing
            from limio_limitrail.api.redact import safe_error

            event = _event("ended", f"the wait broke: {safe_error(error)}")
        yield TriggerEvent(event)  # type: ignore[no-untyped-call] # likewise

    async def _wait(self) -> dict[str, Any]:
        # From here on a clock counts that nobody sets: one that is put right meanwhile neither ends a wait nor draws it out.
        end = time.monotonic() + self.deadline - time.time()
        not_before = self.not_before - time.time()
        try:
            with self.connection_in_use():
                return await self._look_until(end, not_before=not_before)
        except NotInTimeError as error:
            # Before the deadline, it is no look that takes so long, but what has to be there before the first one.
            return _event("timeout" if time.monotonic() >= end else "no_answer", str(error))

    async def _look_until(self, end: float, *, not_before: float) -> dict[str, Any]:
        """Look again and again.

        :param end: the deadline, in monotonic seconds.
        :param not_before: seconds from now in which the API is not to be asked.
        :raises NotInTimeError: it could not even begin.
        """
        await in_thread(_import_all, lane=Lane(place="imports"), within=_left(end))
        from limio_limitrail.api.errors import ApiError, CredentialsError, ParameterError
        from limio_limitrail.hooks.connection import ConnectionFieldError
        from limio_limitrail.polling.policy import PollPolicy, cap_note, capped
        from limio_limitrail.polling.poll import EventKind, PollStatus
        from limio_limitrail.polling.serialization import wait_from_json

        policy = PollPolicy(interval=self.interval)
        failures, retry_after = self.failures, capped(not_before) if not_before > 0 else None
        last = "no look was made"
        predicate = self.wait.get("predicate")
        try:
            # A predicate's module may take long to import, or for ever.
            lane = Lane(place=f"the import of {predicate}" if predicate else "what is waited for", most=1)
            wait = await in_thread(lambda: wait_from_json(self.wait), lane=lane, within=_left(end))
            what = str(self.wait.get("path_type") or self.wait["resource"]["name"])
            # A predicate may never return: it then holds one thread.
            what, most = (f"{what} with {predicate}", 1) if predicate else (what, LOOKS_AT_ONE_LIST)
            reached = await self.reach(within=_left(end))
            while True:
                pause = policy.pause(failures=failures, retry_after=retry_after)
                left = end - time.monotonic()
                if left <= 0 or (retry_after is not None and left < retry_after):
                    return _event(EventKind.TIMEOUT, f"{wait}: {last}")
                await asyncio.sleep(min(pause, left))
                reached = self.newest(reached)
                try:
                    look = await look_once(wait.look, reached, what=what, most=most, within=_left(end))
                except CredentialsError as error:
                    # The secret may have been rotated while this waited.
                    known, reached = reached, await self.reach(within=_left(end))
                    if reached.client is known.client:
                        return _event(EventKind.ENDED, str(error))
                    continue
                except (ApiError, NotInTimeError) as error:
                    if isinstance(error, NotInTimeError) and time.monotonic() >= end:
                        return _event(EventKind.TIMEOUT, f"{wait}: {last}; {error}")
                    if not (isinstance(error, NotInTimeError) or policy.may_pass(error)):
                        return _event(EventKind.ENDED, str(error))
                    asked = error.retry_after if isinstance(error, ApiError) else None
                    failures, retry_after, last = failures + 1, capped(asked), f"{error}{cap_note(asked)}"
                    if failures > self.max_transient_failures:
                        return _event(EventKind.NO_ANSWER, f"{failures} looks in a row have failed. The last one: {error}")
                    self.log.warning("%s That was failure %d in a row.", last, failures)
                    continue
                failures, retry_after, last = 0, None, look.what
                if look.standing is PollStatus.FOUND:
                    return _event(EventKind.FOUND, f"{wait}: {look.what}", result=dict(look.result or {}))
                if look.standing is PollStatus.FAILED:
                    return _event(EventKind.ENDED, f"{wait}: {look.what}, and cannot get there any more.")
        except (ParameterError, ConnectionFieldError) as error:
            return _event(EventKind.ENDED, str(error))


class UnmadeTrigger(BaseTrigger):
    """Stands in for a trigger that a newer version has made, and tells its task so.

    :param of: the class of the trigger.
    :param kwargs: what it is made of.
    :param why: why it cannot be made, as the end of a sentence.
    """

    def __init__(self, *, of: type[BaseTrigger], kwargs: dict[str, Any], why: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # likewise
        self.of = of
        self.kwargs = kwargs
        self.why = why

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Give what it stands in for."""
        return f"{self.of.__module__}.{self.of.__qualname__}", self.kwargs

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """End the wait in a way that lets a retry of the task begin it anew."""
        what = f"The trigger of the wait {self.why}. A retry of the task waits anew with this version; or run that one"
        yield TriggerEvent(_event("no_answer", what))  # type: ignore[no-untyped-call] # likewise


def _import_all() -> None:
    """Import what a wait needs: the first time, this takes longer than an event loop may stand still."""
    import limio_limitrail.api.client
    import limio_limitrail.hooks.connection
    import limio_limitrail.polling.policy
    import limio_limitrail.polling.serialization  # noqa: F401


def _left(end: float) -> float:
    """Return the seconds for what begins now: until the deadline, and a little longer where that is near."""
    return max(end - time.monotonic(), LAST_LOOK)


def _event(kind: str, what: str, **more: Any) -> dict[str, Any]:
    return {"format": EVENT_FORMAT, "kind": str(kind), "what": what, **more}
