# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Wait in the triggerer: only reads happen here, and each of them in a thread, so that the event loop never stands still."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from limio_limitrail.triggers.connected import Connected
from limio_limitrail.triggers.kept import EVENT_FORMAT, KWARGS_FORMAT, unmade
from limio_limitrail.triggers.threads import in_thread


class WaitTrigger(Connected, BaseTrigger):
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
            event = _event("ended", f"the wait broke: {type(error).__name__}: {error}")
        yield TriggerEvent(event)  # type: ignore[no-untyped-call] # likewise

    async def _wait(self) -> dict[str, Any]:
        await in_thread(_import_all)
        from limio_limitrail.api.errors import ApiError, CredentialsError, ParameterError
        from limio_limitrail.hooks.settings import ConnectionFieldError
        from limio_limitrail.waiting.look import EventKind, Standing
        from limio_limitrail.waiting.patience import Patience
        from limio_limitrail.waiting.wire import wait_from_json

        patience = Patience(interval=self.interval)
        # From here on a clock counts that nobody sets: one that is put right meanwhile neither ends a wait nor draws it out.
        end = time.monotonic() + self.deadline - time.time()
        failures, ahead = self.failures, self.not_before - time.time()
        retry_after = ahead if ahead > 0 else None
        last = "no look was made"
        try:
            # A predicate's module may take long to import.
            wait = await in_thread(wait_from_json, self.wait)
            client = (await self.reach()).client
            while True:
                pause = patience.pause(failures=failures, retry_after=retry_after)
                left = end - time.monotonic()
                if left <= 0 or (retry_after is not None and left < retry_after):
                    return _event(EventKind.TIMEOUT, f"{wait}: {last}")
                await asyncio.sleep(min(pause, left))
                try:
                    look = await in_thread(wait.look, client)
                except CredentialsError as error:
                    # The secret may have been rotated while this waited.
                    known, client = client, (await self.reach()).client
                    if client is known:
                        return _event(EventKind.ENDED, str(error))
                    continue
                except ApiError as error:
                    if not patience.may_pass(error):
                        return _event(EventKind.ENDED, str(error))
                    failures, retry_after, last = failures + 1, error.retry_after, str(error)
                    if failures > self.max_transient_failures:
                        what = f"{failures} looks in a row have failed. The last one: {error}"
                        return _event(EventKind.NO_ANSWER, what)
                    self.log.warning("%s That was failure %d in a row.", error, failures)
                    continue
                failures, retry_after, last = 0, None, look.what
                if look.standing is Standing.FOUND:
                    return _event(EventKind.FOUND, f"{wait}: {look.what}", result=dict(look.result or {}))
                if look.standing is Standing.FAILED:
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
    import limio_limitrail.hooks.settings
    import limio_limitrail.waiting.patience
    import limio_limitrail.waiting.wire  # noqa: F401


def _event(kind: str, what: str, **more: Any) -> dict[str, Any]:
    return {"format": EVENT_FORMAT, "kind": str(kind), "what": what, **more}
