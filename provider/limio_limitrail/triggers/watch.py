# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""One watch: what is news for it, and how far it has come."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.api.list_identity import Source, differences
from limio_limitrail.api.redact import safe_error
from limio_limitrail.polling.changes import ChangeEvent
from limio_limitrail.polling.conditions import Predicate, find_predicate
from limio_limitrail.polling.watch_filter import PredicateError, WatchFilter
from limio_limitrail.polling.watch_state import Progress, watch_key
from limio_limitrail.polling.watermark import Position
from limio_limitrail.triggers.poll_slots import Lane
from limio_limitrail.triggers.threads import in_thread

if TYPE_CHECKING:
    from limio_limitrail.polling.fingerprints import RecordFingerprint
    from limio_limitrail.triggers.events import ResourceEventTrigger
    from limio_limitrail.triggers.shared_poll import PollRound

log = logging.getLogger(__name__)

STORE_PATIENCE = 5.0
"""Seconds that Airflow has to store a watch's progress. A triggerer that is ending answers no more."""


LONGEST_IMPORT = 60.0
"""Seconds for the import of a predicate's module, before the watch says that it cannot begin."""


class Store(Protocol):
    """The part of an asset's state store that is used."""

    async def aget(self, key: str) -> Any:
        """Give what is stored."""

    async def aset(self, key: str, value: Any) -> None:
        """Store something."""


class Watcher:
    """A watch, in a triggerer.

    :param trigger: what is watched.
    :param stores: the state stores of the assets that it announces for; none on Airflow 3.2.
    """

    def __init__(self, trigger: ResourceEventTrigger, *, stores: Sequence[Store]) -> None:
        self.resource = trigger.resource
        self.since = trigger.since
        self.overlap = timedelta(seconds=trigger.overlap)
        self.stores = stores
        self.key = watch_key(
            api=type(trigger).__name__,
            conn_id=trigger.api_conn_id,
            resource=trigger.resource.name,
            path=trigger.resource.path,
            params={**trigger.path_params, **trigger.query_params},
            predicate=trigger.predicate,
        )
        self._predicate_path = trigger.predicate
        self._predicate: Predicate | None = None
        self._progress: Progress | None = None
        self._start: Position | None = None
        self._begun = self.since is not None
        self._again: tuple[ChangeEvent, ...] = ()
        self._kept = False
        self._storing = asyncio.Lock()

    async def prepare(self) -> bool:
        """Find out how far the watch has come, and import its predicate. What fails is logged, and each look tries it again."""
        try:
            if self._start is None:
                self._start = await self._begin()
            if self._predicate_path is not None and self._predicate is None:
                path = self._predicate_path
                self._predicate = await in_thread(
                    lambda: find_predicate(path), lane=Lane(place=f"the import of {path}", most=1), within=LONGEST_IMPORT
                )
        except Exception as error:  # noqa: BLE001 - a watch that ends would be started anew every second
            self._complain("cannot begin", error)
            return False
        return True

    async def _begin(self) -> Position:
        stored = [await store.aget(self.key) for store in self.stores]
        try:
            found = [None if kept is None else Progress.from_json(kept) for kept in stored]
        except ParameterError as error:
            raise ParameterError(f"{error.what}. The value is {self.key!r}") from None
        # Of several assets' the newest counts: all of them are told of each event at once.
        newest = max(
            (progress for progress in found if progress is not None),
            key=lambda progress: (progress.announced, -len(progress.unacknowledged)),
            default=None,
        )
        if newest is not None:
            self._progress, self._again = newest, newest.unacknowledged
            self._begun = True
            self._kept = all(progress == newest for progress in found)
            return newest.position
        if not self.stores:
            log.warning(
                "This Airflow keeps no state of assets: after a restart of the triggerer, the watch of %s begins with what comes "
                "from then on. Airflow 3.3 keeps how far it has come",
                self.resource.name,
            )
        return self._beginning()

    def _beginning(self) -> Position:
        changed_after = None
        if self.resource.time_column is not None:
            changed_after = self.since or datetime.now(tz=UTC) - self.overlap
        return Position(changed_after=changed_after)

    def eye(self) -> WatchFilter | None:
        """Give what it looks for now; none as long as it cannot tell."""
        position = self._start if self._progress is None else self._progress.position
        if position is None or (self._predicate_path is not None and self._predicate is None):
            return None
        return WatchFilter(changed_after=position.changed_after, predicate=self._predicate)

    def hangs(self) -> None:
        """Say that its predicate does not return, and that it is left out of the next looks."""
        log.error(
            "The watch of %s sees nothing: predicate=%r has not returned. It is not called again before it has, or the triggerer "
            "is restarted: mend it",
            self.resource.name,
            self._predicate_path,
        )

    async def take(self, finding: PollRound) -> tuple[ChangeEvent, ...]:
        """Take in what a look has shown, and give what is to be announced. It is stored before.

        An error is logged, and the next look shows the same again.
        """
        news: tuple[ChangeEvent, ...] = ()
        if await self.prepare() and self in finding.seen:
            try:
                news = await self._news(finding.seen[self], source=finding.source)
            except Exception as error:  # noqa: BLE001 - likewise
                self._complain("announces nothing", error)
        again, self._again = self._again, ()
        if told := (*again, *news):
            finding.on_heard.append(partial(self._heard, tuple(one.event_id for one in told)))
        return told

    async def _news(
        self, seen: tuple[RecordFingerprint, ...] | PredicateError, *, source: Source | None
    ) -> tuple[ChangeEvent, ...]:
        if isinstance(seen, PredicateError):
            raise ParameterError(
                f"predicate={self._predicate_path!r} fails with {seen}. Mend it: what comes meanwhile is announced then"
            )
        async with self._storing:
            if not self._is_of(source):
                # It has looked from where the former list stood: whether that is enough, the next look tells.
                return ()
            begun = self._begun
            if self._progress is not None and self._progress.source != source:
                self._kept = False
            # In a thread, because the first look of a watch may show very many records.
            progress, news = await in_thread(lambda: self._judge(seen, source=source), lane=Lane(place=self.key))
            if news is not None:
                await self._store(progress)
                self._progress, self._begun = progress, True
                return (news,)
            self._progress, self._begun = progress, True
            if not self._kept:
                await self._store(progress)
            if not begun:
                log.info("The watch of %s begins: what comes from now on is news.", self.resource.name)
            return ()

    def _is_of(self, source: Source | None) -> bool:
        """Return whether a look can be judged. At the list of another tenant, or another list, begin anew."""
        known = self._progress
        if known is None or source is None or not (differ := differences(known.source, source)):
            return True
        log.warning(
            "The watch of %s is of another list or tenant now (what differs: %s), and begins anew: what %s is news. What the "
            "former one had is not announced any more.",
            self.resource.name,
            ", ".join(differ),
            "comes from now on" if self.since is None else f"has changed since {self.since.isoformat()}",
        )
        looked_from, start = known.position.changed_after, self._beginning()
        # Their number goes on, so that no event of the new list has the id of one of the former.
        self._progress = replace(known, position=start, source=source)
        self._begun, self._kept = self.since is not None, False
        return looked_from is None or (start.changed_after is not None and looked_from <= start.changed_after)

    def _judge(self, seen: tuple[RecordFingerprint, ...], *, source: Source | None) -> tuple[Progress, ChangeEvent | None]:
        assert self._start is not None
        known = replace(self._progress or Progress(position=self._start), source=source)
        moved = self._moved(known.position, seen)
        fresh = known.position.news(seen) if self._begun else ()
        if not fresh:
            return replace(known, position=moved), None
        news = ChangeEvent.of(fresh, resource=self.resource.name, watch=self.key, number=known.announced)
        return known.with_news(news, position=moved), news

    def _moved(self, position: Position, seen: tuple[RecordFingerprint, ...]) -> Position:
        moved = position.moved(seen, overlap=self.overlap, now=datetime.now(tz=UTC))
        if moved.truncated:
            log.warning(
                "The watch of %s cannot remember more records: what shows up late, with a time before %s, will not be announced. "
                "Watch with a shorter overlap=",
                self.resource.name,
                moved.changed_after,
            )
        return moved

    async def _heard(self, event_ids: tuple[str, ...]) -> None:
        async with self._storing:
            if self._progress is None:
                return
            self._progress = self._progress.acknowledge(event_ids)
            try:
                await self._store(self._progress)
            except Exception as error:  # noqa: BLE001 - the next store says it, too
                log.warning(
                    "That an event of the watch of %s was kept could not be stored (%s). A restart would announce it again.",
                    self.resource.name,
                    safe_error(error),
                )

    async def _store(self, progress: Progress) -> None:
        self._kept = False
        for store in self.stores:
            # Not wait_for, which may swallow that the trigger is being ended.
            async with asyncio.timeout(STORE_PATIENCE):
                await store.aset(self.key, progress.to_json())
        self._kept = True

    def _complain(self, what: str, error: Exception) -> None:
        why = str(error) if isinstance(error, ParameterError) else safe_error(error)
        log.error("The watch of %s %s: %s. The next look tries again.", self.resource.name, what, why)
