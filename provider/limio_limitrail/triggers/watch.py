# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""One watch: what is new for it, and how far it has read. Watches of one list share the rounds of one poll loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.api.query import Source, differences
from limio_limitrail.api.redact import safe_error
from limio_limitrail.api.resource import Resource
from limio_limitrail.polling.changes import Matches, RecordFingerprint, WatchFilter
from limio_limitrail.polling.conditions import Predicate, PredicateError, find_predicate
from limio_limitrail.polling.events import ChangeEvent
from limio_limitrail.polling.watch_state import WatchState, Watermark, watch_key
from limio_limitrail.triggers.threads import SlotKey, run_in_thread

log = logging.getLogger(__name__)

STORE_TIMEOUT = 5.0
"""Seconds that Airflow has to store a watch's state. A triggerer that is ending does not answer any more."""

IMPORT_TIMEOUT = 60.0
"""Seconds for the import of a predicate's module."""


@dataclass(frozen=True, kw_only=True)
class WatchSpec:
    """What an event trigger watches.

    :param api: the class of the trigger; with the rest but the times and the page size, it identifies the watch.
    :param is_named: it comes from the API's table, so that the connection may give it another path.
    :param since: emit earlier changes from then on, too.
    :param overlap: how much later than a newer one a record may appear.
    """

    api: str
    conn_id: str
    resource: Resource
    is_named: bool
    path_params: Mapping[str, str]
    query_params: Mapping[str, str]
    predicate: str | None
    since: datetime | None
    poke_interval: float
    overlap: timedelta
    page_size: int


@dataclass(kw_only=True, eq=False)
class PollRound:
    """What one poll found for each watch.

    :param matches: by watch. One that subscribed during the poll is not among them.
    :param on_acknowledged: what to do when Airflow has stored all events of the round.
    """

    matches: Mapping[Watcher, Matches] = field(default_factory=dict)
    source: Source | None = None
    on_acknowledged: list[Callable[[], Awaitable[None]]] = field(default_factory=list)

    async def acknowledge(self) -> None:
        """Note that Airflow has stored all events of the round."""
        while self.on_acknowledged:
            await self.on_acknowledged.pop()()


class SharedPoll:
    """The watches that share one poll loop."""

    def __init__(self) -> None:
        self.watchers: set[Watcher] = set()
        self._subscribed = asyncio.Event()

    @contextmanager
    def subscribe(self, watcher: Watcher) -> Iterator[None]:
        """Poll for a watch, too."""
        self.watchers.add(watcher)
        self._subscribed.set()
        try:
            yield
        finally:
            self.watchers.discard(watcher)
            if not self.watchers:
                self._subscribed.clear()

    async def has_subscribers(self) -> None:
        """Wait until there is a watch."""
        await self._subscribed.wait()


_shared_polls: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, SharedPoll]] = WeakKeyDictionary()


def shared_poll_of(key: Hashable) -> SharedPoll:
    """Return the running event loop's shared poll for a list."""
    return _shared_polls.setdefault(asyncio.get_running_loop(), {}).setdefault(key, SharedPoll())


class Watcher:
    """A watch in a triggerer.

    :param stores: the state stores of the assets that it emits for; none on Airflow 3.2.
    """

    def __init__(self, spec: WatchSpec, *, stores: Sequence[Any]) -> None:
        self.spec = spec
        self.stores = stores
        self.key = watch_key(
            api=spec.api,
            conn_id=spec.conn_id,
            resource=spec.resource.name,
            path=spec.resource.path,
            params={**spec.path_params, **spec.query_params},
            predicate=spec.predicate,
        )
        self._predicate: Predicate | None = None
        self._state: WatchState | None = None
        self._start: Watermark | None = None
        self._started = spec.since is not None
        self._to_repeat: tuple[ChangeEvent, ...] = ()
        self._is_stored = False
        self._storing = asyncio.Lock()

    async def prepare(self) -> bool:
        """Read the stored state, and import the predicate. A failure is logged, and each round tries again."""
        try:
            if self._start is None:
                self._start = await self._read_state()
            if self.spec.predicate is not None and self._predicate is None:
                path = self.spec.predicate
                key = SlotKey(host=f"the import of {path}", limit=1)
                self._predicate = await run_in_thread(lambda: find_predicate(path), key=key, within=IMPORT_TIMEOUT)
        except Exception as error:  # noqa: BLE001 - a watch that ends would be restarted every second
            self._log_failure("cannot start", error)
            return False
        return True

    async def _read_state(self) -> Watermark:
        stored = [await store.aget(self.key) for store in self.stores]
        try:
            found = [None if value is None else WatchState.from_json(value) for value in stored]
        except ParameterError as error:
            raise ParameterError(f"{error.what}. The value is {self.key!r}") from None
        # Of several assets', the latest counts: each event is emitted for all of them at once.
        latest = max(
            (state for state in found if state is not None),
            key=lambda state: (state.emitted, -len(state.unacknowledged)),
            default=None,
        )
        if latest is not None:
            self._state, self._to_repeat = latest, latest.unacknowledged
            self._started = True
            self._is_stored = all(state == latest for state in found)
            return latest.watermark
        if not self.stores:
            log.warning(
                "This Airflow has no state store for assets: after a restart of the triggerer, the watch of %s starts with what "
                "comes from then on. Airflow 3.3 stores how far it has read",
                self.spec.resource.name,
            )
        return self._initial_watermark()

    def _initial_watermark(self) -> Watermark:
        if self.spec.resource.time_column is None:
            return Watermark(changed_after=None)
        return Watermark(changed_after=self.spec.since or datetime.now(tz=UTC) - self.spec.overlap)

    def filter(self) -> WatchFilter | None:
        """Return what to poll for; None if it cannot tell yet."""
        watermark = self._start if self._state is None else self._state.watermark
        if watermark is None or (self.spec.predicate is not None and self._predicate is None):
            return None
        return WatchFilter(changed_after=watermark.changed_after, predicate=self._predicate)

    def log_hung_predicate(self) -> None:
        """Log that its predicate does not return, and that the watch is left out of the next rounds."""
        log.error(
            "Polling %s failed: predicate=%r has not returned. It is not called again before it has, or the triggerer is "
            "restarted: correct it",
            self.spec.resource.name,
            self.spec.predicate,
        )

    async def events_of(self, poll_round: PollRound) -> tuple[ChangeEvent, ...]:
        """Return the events to emit after a round. They are stored first.

        An error is logged, and the next round finds the same again.
        """
        event = None
        if await self.prepare() and self in poll_round.matches:
            try:
                event = await self._new_event(poll_round.matches[self], source=poll_round.source)
            except Exception as error:  # noqa: BLE001 - as above
                self._log_failure("emits nothing", error)
        events, self._to_repeat = self._to_repeat if event is None else (*self._to_repeat, event), ()
        if events:
            poll_round.on_acknowledged.append(partial(self._acknowledge, tuple(event.event_id for event in events)))
        return events

    async def _new_event(self, matches: Matches, *, source: Source | None) -> ChangeEvent | None:
        if isinstance(matches, PredicateError):
            raise ParameterError(
                f"predicate={self.spec.predicate!r} fails with {matches}. Correct it: what comes meanwhile is emitted then"
            )
        async with self._storing:
            if not self._is_same_list(source):
                # It was polled from the former list's watermark: whether that is early enough, the next round decides.
                return None
            started = self._started
            if self._state is not None and self._state.source != source:
                self._is_stored = False
            # In a thread, because the first round of a watch may have very many records.
            state, event = await run_in_thread(lambda: self._next_state(matches, source=source), key=SlotKey(host=self.key))
            if event is not None:
                await self._store(state)
            self._state, self._started = state, True
            if not self._is_stored:
                await self._store(state)
            if event is None and not started:
                log.info("The watch of %s starts: changes from now on are emitted.", self.spec.resource.name)
            return event

    def _is_same_list(self, source: Source | None) -> bool:
        """Return whether the watch can use a round. If the list or tenant has changed, start again."""
        known = self._state
        if known is None or source is None or not (differ := differences(known.source, source)):
            return True
        since = self.spec.since
        log.warning(
            "The watch of %s is of another list or tenant now (what differs: %s), and starts again: what %s is emitted. Events "
            "of the former one are not emitted any more.",
            self.spec.resource.name,
            ", ".join(differ),
            "comes from now on" if since is None else f"has changed since {since.isoformat()}",
        )
        polled_from, start = known.watermark.changed_after, self._initial_watermark()
        # The number of events continues, so that no event of the new list has the id of one of the former.
        self._state = replace(known, watermark=start, source=source)
        self._started, self._is_stored = since is not None, False
        return polled_from is None or (start.changed_after is not None and polled_from <= start.changed_after)

    def _next_state(
        self, matches: tuple[RecordFingerprint, ...], *, source: Source | None
    ) -> tuple[WatchState, ChangeEvent | None]:
        assert self._start is not None
        known = replace(self._state or WatchState(watermark=self._start), source=source)
        watermark = known.watermark.advance(matches, overlap=self.spec.overlap, now=datetime.now(tz=UTC))
        if watermark.truncated:
            log.warning(
                "The watch of %s cannot remember more records: what appears late, with a time before %s, will not be emitted. "
                "Watch with a shorter overlap=",
                self.spec.resource.name,
                watermark.changed_after,
            )
        changes = known.watermark.changes(matches) if self._started else ()
        if not changes:
            return replace(known, watermark=watermark), None
        event = ChangeEvent.of(changes, resource=self.spec.resource.name, watch=self.key, number=known.emitted)
        return known.emit(event, watermark=watermark), event

    async def _acknowledge(self, event_ids: tuple[str, ...]) -> None:
        async with self._storing:
            if self._state is None:
                return
            self._state = self._state.acknowledge(event_ids)
            try:
                await self._store(self._state)
            except Exception as error:  # noqa: BLE001 - the next store says it, too
                log.warning(
                    "That an event of the watch of %s was acknowledged could not be stored (%s). A restart would repeat it.",
                    self.spec.resource.name,
                    safe_error(error),
                )

    async def _store(self, state: WatchState) -> None:
        self._is_stored = False
        for store in self.stores:
            # Not wait_for, which may swallow that the trigger is being ended.
            async with asyncio.timeout(STORE_TIMEOUT):
                await store.aset(self.key, state.to_json())
        self._is_stored = True

    def _log_failure(self, what: str, error: Exception) -> None:
        reason = str(error) if isinstance(error, ParameterError) else safe_error(error)
        log.error("The watch of %s %s: %s. The next poll tries again.", self.spec.resource.name, what, reason)
