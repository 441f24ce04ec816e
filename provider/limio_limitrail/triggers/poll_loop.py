# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Look at a list again and again, whatever happens."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from limio_limitrail.triggers.poll_once import look_once
from limio_limitrail.triggers.poll_slots import Lane
from limio_limitrail.triggers.running_predicates import Running
from limio_limitrail.triggers.shared_poll import PollRound, SharedPoll
from limio_limitrail.triggers.threads import NotInTimeError, in_thread

if TYPE_CHECKING:
    from limio_limitrail.api.resource import Resource
    from limio_limitrail.triggers.connection import ResolvedConnection
    from limio_limitrail.triggers.events import ResourceEventTrigger
    from limio_limitrail.triggers.watch import Watcher

log = logging.getLogger(__name__)

LOST = 10
"""A failure that does not pass by itself puts the next look off as so many in a row do that may."""

LONGEST_TURN = 1200.0
"""Seconds after which a watch says that its turn has not come, or that Airflow has not said what its connection is."""


async def looks(trigger: ResourceEventTrigger, shared_poll: SharedPoll) -> AsyncIterator[PollRound]:
    """Look for all at a desk, and sleep, for ever. What fails is logged, and tried again later, each time later.

    :param trigger: one of those who share the loop.
    """
    await in_thread(_import_all, lane=Lane(place="imports"))
    from limio_limitrail.api.errors import ApiError, CredentialsError
    from limio_limitrail.api.list_identity import list_source
    from limio_limitrail.api.redact import safe_error
    from limio_limitrail.polling.policy import PollPolicy, cap_note
    from limio_limitrail.polling.poll import longest_look
    from limio_limitrail.polling.watch_filter import Watch

    policy = PollPolicy(interval=trigger.interval)
    watch = Watch(
        resource=trigger.resource,
        path_params=trigger.path_params,
        query_params=trigger.query_params,
        page_size=trigger.page_size,
    )
    reached: ResolvedConnection | None = None
    hung: dict[Watcher, Running] = {}
    failures = 0
    # So that not all watches of a triggerer that starts ask at once.
    await asyncio.sleep(trigger.interval * random.uniform(0, 0.1))  # nosec B311 # noqa: S311 - it spreads, it hides nothing
    while True:
        await shared_poll.occupied()
        hung = {watcher: look for watcher, look in hung.items() if look.of is watcher and watcher in shared_poll.watchers}
        running = Running()
        eyes = {
            watcher: running.noting(watcher, eye)
            for watcher in shared_poll.watchers
            if watcher not in hung and (eye := watcher.eye()) is not None
        }
        if not eyes:
            yield PollRound()
            await asyncio.sleep(policy.pause())
            continue
        try:
            reached = await trigger.reach(within=LONGEST_TURN) if reached is None else trigger.newest(reached)
            placed = replace(watch, resource=_placed(trigger, reached))
            look = partial(placed.look, eyes=eyes, now=datetime.now(tz=UTC))
            # Those who hang keep their turn, and the others have one of their own.
            turn = partial(look_once, what=f"watches of {placed.resource.name}", whose=(shared_poll, frozenset(hung)), most=1)
            try:
                seen = await turn(look, reached, within=LONGEST_TURN + longest_look(reached.client))
            except CredentialsError:
                # The secret may have been rotated since the connection was looked up.
                known, reached = reached, await trigger.reach(within=LONGEST_TURN)
                if reached.client is known.client:
                    raise
                seen = await turn(look, reached, within=LONGEST_TURN + longest_look(reached.client))
            # Records are known again by their key.
            owner = {**reached.owner, "primary key": json.dumps(placed.resource.primary_key)}
            source = list_source(placed.resource, path_params=trigger.path_params, owner=owner)
        except Exception as error:  # noqa: BLE001 - a watch that ends would be started anew every second
            if isinstance(error, NotInTimeError) and running.of is not None:
                running.of.hangs()
                hung[running.of] = running
                continue
            passing = isinstance(error, NotInTimeError) or policy.may_pass(error)
            failures = failures + 1 if passing else max(failures, LOST)
            retry_after = error.retry_after if isinstance(error, ApiError) else None
            pause = policy.pause(failures=failures, retry_after=retry_after)
            told = str(error) if isinstance(error, ApiError | ValueError) else safe_error(error)
            told = told if told.endswith(".") else f"{told}."
            log.log(
                logging.WARNING if passing else logging.ERROR,
                "The watch of %s sees nothing: %s It goes on, and looks again in %.0f s.",
                trigger.resource.name,
                f"{told}{cap_note(retry_after)}",
                pause,
            )
            # Whoever puts the connection right, be it a host that does not answer, need not restart the triggerer.
            reached = None
            await asyncio.sleep(pause)
            continue
        failures = 0
        yield PollRound(seen=seen, source=source)
        await asyncio.sleep(policy.pause())


def _placed(trigger: ResourceEventTrigger, reached: ResolvedConnection) -> Resource:
    path = dict(reached.paths).get(trigger.resource.name) if trigger.named else None
    return trigger.resource if path is None else replace(trigger.resource, path=path)


def _import_all() -> None:
    """Import what a look needs: the first time, this takes longer than an event loop may stand still."""
    import limio_limitrail.api.client
    import limio_limitrail.api.list_identity
    import limio_limitrail.hooks.connection
    import limio_limitrail.polling.policy
    import limio_limitrail.polling.watch_filter  # noqa: F401
