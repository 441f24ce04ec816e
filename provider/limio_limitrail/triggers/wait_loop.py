# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The poll loop of a wait, until its deadline. Imported in a thread, because it imports the HTTP client."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import limio_limitrail.api.client  # noqa: F401 - here and not when a connection is read, which has a time limit
from limio_limitrail.api.errors import ApiError, ConnectionFieldError, CredentialsError, ParameterError
from limio_limitrail.polling.conditions import condition_from_json
from limio_limitrail.polling.poll import (
    EventKind,
    NoAnswerError,
    PollPolicy,
    PollStatus,
    PollTimeoutError,
    WaitSpec,
    capped,
    event_of,
)
from limio_limitrail.triggers.connection import ConnectionMixin
from limio_limitrail.triggers.threads import SLOTS_PER_LIST, SlotKey, run_in_thread, seconds_left


async def poll_until(end: float, spec: WaitSpec, *, connection: ConnectionMixin, not_before: float, log: Any) -> dict[str, Any]:
    """Poll until the condition is met, cannot be met any more, or the deadline.

    :param end: the deadline, in monotonic seconds.
    :param not_before: seconds from now in which the API does not want to be asked.
    :param log: the trigger's logger, which writes to the task's log.
    :returns: the payload of the trigger's event.
    :raises PollTimeoutError: it could not even start.
    """
    policy = PollPolicy(poke_interval=spec.poke_interval, max_transient_failures=spec.max_transient_failures)
    failures, retry_after = spec.failures, capped(not_before) if not_before > 0 else None
    pause = policy.pause(failures=failures, retry_after=retry_after)
    last = "no poll was made"
    predicate = spec.condition.get("predicate")
    try:
        # The import of a predicate's module may never end.
        key = SlotKey(host=f"the import of {predicate}" if predicate else "what is waited for", limit=1)
        condition = await run_in_thread(lambda: condition_from_json(spec.condition), key=key, within=seconds_left(end))
        target, limit = str(spec.condition.get("path_type") or spec.condition["resource"]["name"]), SLOTS_PER_LIST
        if predicate:
            # It may never return, and then occupies one thread.
            target, limit = f"{target} with {predicate}", 1
        resolved = await connection.resolve(within=seconds_left(end))
        while True:
            left = end - time.monotonic()
            if left <= 0 or (retry_after is not None and left < retry_after):
                return event_of(EventKind.TIMEOUT, f"waiting for {condition}: {last}")
            await asyncio.sleep(min(pause, left))
            resolved = connection.latest(resolved)
            try:
                found = await resolved.poll(condition.poll, target=target, limit=limit, within=seconds_left(end))
            except CredentialsError as error:
                # The secret may have been rotated meanwhile.
                known, resolved = resolved, await connection.resolve(within=seconds_left(end))
                if resolved.client is known.client:
                    return event_of(EventKind.ENDED, str(error))
                pause = policy.pause(failures=failures, retry_after=retry_after)
                continue
            except (ApiError, PollTimeoutError) as error:
                if isinstance(error, PollTimeoutError) and time.monotonic() >= end:
                    return event_of(EventKind.TIMEOUT, f"waiting for {condition}: {last}; {error}")
                failure = policy.failed(error, failures=failures)
                if not failure.is_transient:
                    return event_of(EventKind.ENDED, str(error))
                if failure.is_last:
                    return event_of(EventKind.NO_ANSWER, NoAnswerError.after(failure.count, error).what)
                failures, retry_after, pause, last = failure.count, failure.retry_after, failure.pause, failure.message
                log.warning("Polling failed (%d in a row): %s Retrying in %.0f s.", failures, last, pause)
                continue
            failures, retry_after, pause, last = 0, None, policy.pause(), found.summary
            if found.status is PollStatus.FOUND:
                return event_of(EventKind.FOUND, f"{condition}: {found.summary}", result=dict(found.result or {}))
            if found.status is PollStatus.FAILED:
                return event_of(EventKind.ENDED, f"{condition}: {found.summary}, and no target status can be reached any more.")
    except (ParameterError, ConnectionFieldError) as error:
        return event_of(EventKind.ENDED, str(error))
