# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Event triggers: they start Dags when a list has new or changed records."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Hashable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.parameters import readers, references, times
from limio_limitrail.parameters.declared import Parameter, not_rendered, read_all
from limio_limitrail.triggers.base import KWARGS_FORMAT, unsupported
from limio_limitrail.triggers.connection import ConnectionMixin
from limio_limitrail.triggers.threads import import_in_thread

if TYPE_CHECKING:
    from limio_limitrail.api.resource import Resource
    from limio_limitrail.triggers.watch import PollRound, Watcher, WatchSpec

DEFAULT_INTERVAL = timedelta(minutes=1)
DEFAULT_OVERLAP = timedelta(minutes=5)
LONGEST = timedelta(days=10 * 365)


class WatchParameterError(ParameterError, TypeError):
    """A parameter of an event trigger is wrong.

    Airflow's triggerer survives a ``TypeError`` while it makes a trigger, and nothing else.
    """


class ResourceEventTrigger(ConnectionMixin, BaseEventTrigger):
    """Poll a list, and emit what is new in it or has changed. The base of the triggers that people use.

    A record is new if its id and its time were not seen before; in a list whose records have no time, if anything in it has
    changed. What exists when a watch starts is not emitted. A failure is logged and retried for ever: it is seen in the log
    only. Airflow 3.3 and later store in the state store of each watched asset how far the watch has read; on 3.2, a triggerer
    that restarts starts with what comes from then on.

    No parameter is a template: Airflow renders nothing of a watch. All are read and checked when the Dag is parsed.

    :param resource: a name of the API's table of resources, or a `Resource` of your own.
    :param path_params: values for the placeholders of the resource's path, such as ``service``.
    :param query_params: further query parameters.
    :param predicate: the import path of a function that says whether a record (a mapping) is of interest.
    :param since: when the watch starts, emit what has changed since then, too: a datetime, or an ISO 8601 text.
    :param poke_interval: between two polls: seconds, a timedelta, or an ISO 8601 duration such as ``PT5M``.
    :param overlap: how much later than a newer one a record may appear, likewise.
    :param page_size: records to ask for per page.
    :param format_version: leave it out; Airflow stores it for later versions of this package.
    """

    parameters: ClassVar[Mapping[str, Parameter]] = {
        "resource": Parameter(references.resource, templated=False),
        "path_params": Parameter(readers.param_values, templated=False),
        "query_params": Parameter(readers.param_values, templated=False),
        "predicate": Parameter(readers.optional(references.import_path), templated=False),
        "since": Parameter(readers.optional(times.instant), templated=False),
        "poke_interval": Parameter(times.span(least=timedelta(milliseconds=10), most=LONGEST), templated=False),
        "overlap": Parameter(times.span(most=LONGEST), templated=False),
        "page_size": Parameter(readers.whole_number(least=1), templated=False),
    }

    def __init__(self, *, format_version: int = KWARGS_FORMAT, **given: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # Airflow's own has no types
        if (reason := unsupported(format_version)) is not None:
            raise WatchParameterError(
                f"this {type(self).__name__} {reason}. Nothing is polled until a triggerer of that version takes it over; then "
                "the watch continues where it stopped"
            )
        if unknown := given.keys() - self.parameters.keys():
            # Airflow's base class would ignore them, and a misspelt one would go unnoticed.
            raise WatchParameterError(f"{type(self).__name__} has no parameter {min(unknown)!r}: correct it, or leave it out")
        from limio_limitrail.api.query import check_bounds, check_query_params

        try:
            read = read_all(self.parameters, {name: not_rendered(name, value) for name, value in given.items()})
        except ParameterError as error:
            raise WatchParameterError(error.what) from None
        try:
            resource = read.pop("resource")
            self.named = resource if isinstance(resource, str) and not resource.startswith("{") else None
            self.resource = self._read_resource(resource)
            self.path_params: dict[str, str] = read.pop("path_params")
            self.query_params: dict[str, str] = read.pop("query_params")
            self.resource.path_for(self.path_params)
            check_query_params(self.resource, self.query_params)
            # Each poll asks for what came since the last one.
            check_bounds(self.resource, {**self.resource.params, **self.query_params}, since=True, until=True)
        except ParameterError as error:
            raise WatchParameterError(str(error)) from None
        self.predicate: str | None = read.pop("predicate")
        self.since: datetime | None = read.pop("since")
        self.poke_interval: float = read.pop("poke_interval").total_seconds()
        self.overlap: float = read.pop("overlap").total_seconds()
        self.page_size: int = read.pop("page_size")
        if self.since is not None and self.resource.time_column is None:
            raise WatchParameterError(f"the records of resource {self.resource.name!r} have no time: leave since out")
        for name, value in read.items():
            setattr(self, name, value)

    @classmethod
    @abstractmethod
    def find_resource(cls, name: str) -> Resource:
        """Return a resource by its name.

        :raises ParameterError: no resource has that name.
        """

    def _read_resource(self, resource: str | Resource) -> Resource:
        if isinstance(resource, str) and not resource.startswith("{"):
            return self.find_resource(resource)
        from limio_limitrail.api.resource import Resource, resource_from_json, resource_to_json

        try:
            return resource_from_json(resource_to_json(resource) if isinstance(resource, Resource) else json.loads(resource))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise ParameterError(
                f"resource={str(resource)[:100]} is neither a name nor a Resource that a triggerer can make again: give one of "
                "the table's names, or a Resource with one of the provider's own pagings"
            ) from None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class and its arguments: texts and numbers only, because Airflow 3.2 returns mappings in another form.
        Nothing in them is secret."""
        from limio_limitrail.api.resource import resource_to_json

        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "format_version": KWARGS_FORMAT,
                "resource": self.named or json.dumps(resource_to_json(self.resource), sort_keys=True),
                "path_params": json.dumps(self.path_params, sort_keys=True),
                "query_params": json.dumps(self.query_params, sort_keys=True),
                "predicate": self.predicate,
                "since": self.since.isoformat() if self.since else None,
                "poke_interval": self.poke_interval,
                "overlap": self.overlap,
                "page_size": self.page_size,
                **self.connection_kwargs(),
            },
        )

    def spec(self) -> WatchSpec:
        """Return what is watched."""
        from limio_limitrail.triggers.watch import WatchSpec

        return WatchSpec(
            api=type(self).__name__,
            conn_id=self.api_conn_id,
            resource=self.resource,
            is_named=self.named is not None,
            path_params=self.path_params,
            query_params=self.query_params,
            predicate=self.predicate,
            since=self.since,
            poke_interval=self.poke_interval,
            overlap=timedelta(seconds=self.overlap),
            page_size=self.page_size,
        )

    def shared_stream_key(self) -> Hashable:
        """Return what watches must have in common to share a poll loop: list, connection and interval."""
        classpath, kwargs = self.serialize()
        shared = {name: value for name, value in kwargs.items() if name not in {"predicate", "since", "overlap"}}
        return (classpath, json.dumps(shared, sort_keys=True))

    @classmethod
    def create_shared_stream_producer(cls, kwargs: dict[str, Any]) -> Any:
        """Return what polls for all of them, and learns from Airflow when an event has been stored."""
        from limio_limitrail.triggers.producer import WatchProducer

        return WatchProducer(cls(**kwargs).shared_rounds)

    async def shared_rounds(self) -> AsyncGenerator[PollRound]:
        """Poll for all watches of the list, for ever."""
        await import_in_thread("limio_limitrail.triggers.poll_loops")
        from limio_limitrail.triggers.poll_loops import poll_loop
        from limio_limitrail.triggers.watch import PollRound, shared_poll_of

        # Events that were emitted before a restart and may not be stored need not wait for the API.
        yield PollRound()
        shared_poll = shared_poll_of(self.shared_stream_key())
        with self.connection_in_use():
            async for poll_round in poll_loop(self.spec(), connection=self, shared_poll=shared_poll):
                yield poll_round

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Any]) -> AsyncIterator[TriggerEvent]:
        """Emit what is new for this watch in the rounds of the shared loop."""
        watcher = await self._make_watcher()
        from limio_limitrail.triggers.watch import shared_poll_of

        with shared_poll_of(self.shared_stream_key()).subscribe(watcher):
            async for poll_round in shared_stream:
                async for event in self._emit(watcher, poll_round):
                    yield event

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Watch without sharing the loop, as Airflow 3.2 does."""
        watcher = await self._make_watcher()
        from limio_limitrail.triggers.poll_loops import poll_loop
        from limio_limitrail.triggers.watch import SharedPoll

        shared_poll = SharedPoll()
        last: PollRound | None = None
        with shared_poll.subscribe(watcher), self.connection_in_use():
            async for poll_round in poll_loop(watcher.spec, connection=self, shared_poll=shared_poll):
                # By now Airflow has had the time of one interval to store what was emitted.
                if last is not None:
                    await last.acknowledge()
                async for event in self._emit(watcher, poll_round):
                    yield event
                last = poll_round

    async def _emit(self, watcher: Watcher, poll_round: PollRound) -> AsyncIterator[TriggerEvent]:
        for event in await watcher.events_of(poll_round):
            yield TriggerEvent(event.to_json())  # type: ignore[no-untyped-call] # as above

    async def _make_watcher(self) -> Watcher:
        await import_in_thread("limio_limitrail.triggers.poll_loops")
        from limio_limitrail.triggers.watch import Watcher

        # Private, because Airflow offers no other way to the stores of all assets that one trigger watches.
        stores = getattr(getattr(self, "asset_state_store", None), "_by_name", {})
        watcher = Watcher(self.spec(), stores=tuple(stores.values()))
        await watcher.prepare()
        return watcher
