# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The poll loops: of a watched list, which never ends, whatever fails; and of a wait, until its deadline.

Imported in a thread, because it imports the HTTP client.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import limio_limitrail.api.client
import limio_limitrail.hooks.connection  # noqa: F401 - here and not when a connection is read, which has a time limit
from limio_limitrail.api.errors import ApiError, ConnectionFieldError, CredentialsError, ParameterError
from limio_limitrail.api.query import list_source
from limio_limitrail.polling.changes import Matches, WatchedList, WatchFilter
from limio_limitrail.polling.conditions import PredicateError, condition_from_json, with_quiet_predicate
from limio_limitrail.polling.poll import (
    EventKind,
    NoAnswerError,
    PollPolicy,
    PollStatus,
    PollTimeoutError,
    WaitSpec,
    capped,
    event_of,
    longest_poll,
    wait_policy,
)
from limio_limitrail.triggers.connection import ConnectionMixin, ResolvedConnection
from limio_limitrail.triggers.threads import SLOTS_PER_LIST, SlotKey, run_in_thread, seconds_left
from limio_limitrail.triggers.watch import PollRound, SharedPoll, Watcher, WatchSpec

log = logging.getLogger(__name__)

SLOT_TIMEOUT = 1200.0
"""Seconds after which a watch logs that it got no slot, or that Airflow has not said what its connection is."""


class RunningPredicate:
    """Whose predicate is running: if a poll never ends, the watch whose predicate hangs is left out of the next ones."""

    def __init__(self) -> None:
        self.watcher: Watcher | None = None

    def noting(self, watcher: Watcher, watch_filter: WatchFilter) -> WatchFilter:
        """Return a filter whose predicate is noted here while it runs."""
        predicate = watch_filter.predicate
        if predicate is None:
            return watch_filter

        def noted(record: Mapping[str, Any]) -> bool:
            self.watcher = watcher
            try:
                return predicate(record)
            finally:
                self.watcher = None

        return replace(watch_filter, predicate=noted)


async def poll_loop(spec: WatchSpec, *, connection: ConnectionMixin, shared_poll: SharedPoll) -> AsyncIterator[PollRound]:
    """Poll for all watches of a list, and sleep, for ever. A failure is logged and retried with backoff."""
    policy = PollPolicy(poke_interval=spec.poke_interval)
    resolved: ResolvedConnection | None = None
    hung: dict[Watcher, RunningPredicate] = {}
    failures = 0
    # So that not all watches of a triggerer that starts poll at once.
    await asyncio.sleep(spec.poke_interval * random.uniform(0, 0.1))  # nosec B311 # noqa: S311 - it spreads, it hides nothing
    while True:
        await shared_poll.has_subscribers()
        hung = {one: running for one, running in hung.items() if running.watcher is one and one in shared_poll.watchers}
        running = RunningPredicate()
        filters = {
            watcher: running.noting(watcher, watch_filter)
            for watcher in shared_poll.watchers
            if watcher not in hung and (watch_filter := watcher.filter()) is not None
        }
        if not filters:
            yield PollRound()
            await asyncio.sleep(policy.pause())
            continue
        try:
            resolved = await connection.resolve(within=SLOT_TIMEOUT) if resolved is None else connection.latest(resolved)
            # Those that hang keep their slot, and the others have one of their own.
            poll = partial(_poll, spec, filters=filters, owner=(shared_poll, frozenset(hung)))
            try:
                poll_round = await poll(resolved)
            except CredentialsError:
                # The secret may have been rotated since the connection was looked up.
                known, resolved = resolved, await connection.resolve(within=SLOT_TIMEOUT)
                if resolved.client is known.client:
                    raise
                poll_round = await poll(resolved)
        except Exception as error:  # noqa: BLE001 - a watch that ends would be restarted every second
            if isinstance(error, PollTimeoutError) and running.watcher is not None:
                running.watcher.log_hung_predicate()
                hung[running.watcher] = running
                continue
            failure = policy.failed(error, failures=failures)
            failures = failure.count
            level = logging.WARNING if failure.is_transient else logging.ERROR
            log.log(level, "Polling %s failed: %s Retrying in %.0f s.", spec.resource.name, failure.message, failure.pause)
            # A connection that is corrected, such as its host, needs no restart of the triggerer.
            resolved = None
            await asyncio.sleep(failure.pause)
            continue
        failures = 0
        yield poll_round
        await asyncio.sleep(policy.pause())


async def _poll(
    spec: WatchSpec, resolved: ResolvedConnection, *, filters: Mapping[Watcher, WatchFilter], owner: tuple[object, ...]
) -> PollRound:
    path = dict(resolved.paths).get(spec.resource.name) if spec.is_named else None
    resource = spec.resource if path is None else replace(spec.resource, path=path)
    watched = WatchedList(
        resource=resource, path_params=spec.path_params, query_params=spec.query_params, page_size=spec.page_size
    )
    matches: dict[Watcher, Matches] = await resolved.poll(
        partial(watched.poll, filters=filters, now=datetime.now(tz=UTC)),
        target=f"watches of {resource.name}",
        owner=owner,
        limit=1,
        within=SLOT_TIMEOUT + longest_poll(resolved.client),
    )
    # Records are recognized by their key.
    tenant = {**resolved.owner, "primary key": json.dumps(resource.primary_key)}
    return PollRound(matches=matches, source=list_source(resource, path_params=spec.path_params, owner=tenant))


async def poll_until(end: float, spec: WaitSpec, *, connection: ConnectionMixin, not_before: float, log: Any) -> dict[str, Any]:
    """Poll until the condition is met, cannot be met any more, or the deadline.

    :param end: the deadline, in monotonic seconds.
    :param not_before: seconds from now in which the API does not want to be asked.
    :param log: the trigger's logger, which writes to the task's log.
    :returns: the payload of the trigger's event.
    :raises PollTimeoutError: it could not even start.
    """
    policy = wait_policy(poke_interval=spec.poke_interval, max_transient_failures=spec.max_transient_failures)
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
        condition = with_quiet_predicate(condition, api=resolved.client.api)
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
    except PredicateError as error:
        return event_of(EventKind.ENDED, f"predicate={predicate!r} fails with {error}. Correct it")
    except (ParameterError, ConnectionFieldError) as error:
        return event_of(EventKind.ENDED, str(error))
