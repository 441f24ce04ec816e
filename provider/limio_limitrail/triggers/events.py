# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Start Dags when a list has new or changed records."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Hashable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.api.query import check_query_params
from limio_limitrail.api.resource import Resource
from limio_limitrail.parameters import places, readers, times
from limio_limitrail.parameters.declared import Parameter, not_rendered, read_all
from limio_limitrail.triggers.connection import ConnectionMixin
from limio_limitrail.triggers.poll_slots import Lane
from limio_limitrail.triggers.stored_formats import KWARGS_FORMAT, unmade
from limio_limitrail.triggers.threads import in_thread

if TYPE_CHECKING:
    from limio_limitrail.triggers.shared_poll import PollRound
    from limio_limitrail.triggers.watch import Watcher

DEFAULT_INTERVAL = timedelta(minutes=1)
DEFAULT_OVERLAP = timedelta(minutes=5)
LONGEST = timedelta(days=10 * 365)


class WatchParameterError(ParameterError, TypeError):
    """A parameter of an event trigger is wrong.

    Airflow's triggerer survives a ``TypeError`` while it makes a trigger, and nothing else.
    """


class ResourceEventTrigger(ConnectionMixin, BaseEventTrigger):
    """Look at a list again and again, and announce what is new in it or has changed. The base of the triggers that people use.

    A record is new when its id and its time were not seen before; where a list tells no time, when anything in it has changed.
    What is there when a watch begins is not news. Whatever fails is logged, and the watch goes on: nobody but the log hears of
    it. Airflow 3.3 and later keep in the state store of each watched asset how far the watch has come; on 3.2, a triggerer that
    starts anew begins with what comes from then on.

    No parameter is a template: Airflow renders nothing of a watch. All are read and checked when the Dag is parsed.

    :param resource: a name of the API's table of resources, or a `Resource` of your own.
    :param path_params: values for the placeholders of the resource's path, such as ``service``.
    :param query_params: further query parameters.
    :param predicate: the import path of a function that says whether a record (a mapping) is of interest.
    :param since: announce what has changed since then, too, when the watch begins: a datetime, or an ISO 8601 text.
    :param interval: from one look to the next: seconds, a timedelta, or an ISO 8601 duration such as ``PT5M``.
    :param overlap: how much later than a newer one a record may show up, likewise.
    :param page_size: records to ask for a page.
    :param format_version: leave it out; Airflow keeps it with the others, for a version of this package that comes later.
    """

    parameters: ClassVar[Mapping[str, Parameter]] = {
        "resource": Parameter(places.resource, templated=False),
        "path_params": Parameter(readers.param_values, templated=False),
        "query_params": Parameter(readers.param_values, templated=False),
        "predicate": Parameter(readers.optional(places.import_path), templated=False),
        "since": Parameter(readers.optional(times.instant), templated=False),
        "interval": Parameter(times.span(least=timedelta(milliseconds=10), most=LONGEST), templated=False),
        "overlap": Parameter(times.span(most=LONGEST), templated=False),
        "page_size": Parameter(readers.whole_number(least=1), templated=False),
    }

    def __init__(
        self,
        *,
        resource: str | Resource,
        path_params: Mapping[str, Any] | str | None = None,
        query_params: Mapping[str, Any] | str | None = None,
        predicate: str | None = None,
        since: str | datetime | None = None,
        interval: float | str | timedelta = DEFAULT_INTERVAL,
        overlap: float | str | timedelta = DEFAULT_OVERLAP,
        page_size: int = 100,
        format_version: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # Airflow's own has no types
        if (why := unmade(format_version)) is not None:
            raise WatchParameterError(
                f"this {type(self).__name__} {why}. Nothing is looked at until a triggerer of that version takes it over; then "
                "the watch goes on where it stood"
            )
        if kwargs:
            # Airflow's would swallow them, and nobody would hear of a misspelt one.
            raise WatchParameterError(f"{type(self).__name__} has no parameter {min(kwargs)!r}: correct it, or leave it out")
        read = self.read_given(
            ResourceEventTrigger.parameters,
            resource=resource,
            path_params=path_params,
            query_params=query_params,
            predicate=predicate,
            since=since,
            interval=interval,
            overlap=overlap,
            page_size=page_size,
        )
        try:
            resource = read["resource"]
            self.named = resource if isinstance(resource, str) and not resource.startswith("{") else None
            self.resource = self._read_resource(resource)
            self.path_params: dict[str, str] = read["path_params"]
            self.query_params: dict[str, str] = read["query_params"]
            self.resource.path_for(self.path_params)
            check_query_params(self.resource, self.query_params)
        except ParameterError as error:
            raise WatchParameterError(str(error)) from None
        self.predicate: str | None = read["predicate"]
        self.since: datetime | None = read["since"]
        self.interval: float = read["interval"].total_seconds()
        self.overlap: float = read["overlap"].total_seconds()
        self.page_size: int = read["page_size"]
        if self.since is not None and self.resource.time_column is None:
            raise WatchParameterError(f"resource {self.resource.name!r} tells no time: leave since out")

    @staticmethod
    def read_given(parameters: Mapping[str, Parameter], **given: object) -> dict[str, Any]:
        """Read parameters.

        :param parameters: how.
        :param given: the values.
        :raises WatchParameterError: some do not fit, or are templates, which nothing would render.
        """
        try:
            return read_all(parameters, {name: not_rendered(name, value) for name, value in given.items()})
        except ParameterError as error:
            raise WatchParameterError(error.what) from None

    @classmethod
    @abstractmethod
    def find_resource(cls, name: str) -> Resource:
        """Look a resource up by name.

        :raises ParameterError: no resource has that name.
        """

    def _read_resource(self, resource: str | Resource) -> Resource:
        if isinstance(resource, str) and not resource.startswith("{"):
            return self.find_resource(resource)
        from limio_limitrail.api.serialization import resource_from_json, resource_to_json

        try:
            return resource_from_json(resource_to_json(resource) if isinstance(resource, Resource) else json.loads(resource))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise ParameterError(
                f"resource={str(resource)[:100]} is neither a name nor a Resource that a triggerer can make again: give one of "
                "the table's names, or a Resource with one of the provider's own pagings"
            ) from None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Give what the trigger can be made of again: plain texts and numbers, because Airflow 3.2 gives mappings back in another
        shape. Nothing in it is secret."""
        from limio_limitrail.api.serialization import resource_to_json

        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "format_version": KWARGS_FORMAT,
                "resource": self.named or json.dumps(resource_to_json(self.resource), sort_keys=True),
                "path_params": json.dumps(self.path_params, sort_keys=True),
                "query_params": json.dumps(self.query_params, sort_keys=True),
                "predicate": self.predicate,
                "since": self.since.isoformat() if self.since else None,
                "interval": self.interval,
                "overlap": self.overlap,
                "page_size": self.page_size,
                **self.own_kwargs(),
            },
        )

    # -- one loop for all who watch the same list ------------------------------------------------------------------

    def shared_stream_key(self) -> Hashable:
        """Tell which watches share a loop: those of one list, through one connection, that look as often."""
        classpath, kwargs = self.serialize()
        alike = {name: value for name, value in kwargs.items() if name not in {"predicate", "since", "overlap"}}
        return (classpath, json.dumps(alike, sort_keys=True))

    @classmethod
    def create_shared_stream_producer(cls, kwargs: dict[str, Any]) -> Any:
        """Make what looks for all of them, and hears from Airflow when an event has been kept."""
        from limio_limitrail.triggers.producer import WatchProducer

        return WatchProducer(cls(**kwargs))

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Any]) -> AsyncIterator[TriggerEvent]:
        """Announce what of the looks is news for this watch."""
        from limio_limitrail.triggers.shared_poll import shared_poll_of

        shared_poll = shared_poll_of(self.shared_stream_key())
        watcher = await self._make_watcher()
        with shared_poll.place(watcher):
            async for finding in shared_stream:
                async for event in self._tell(watcher, finding):
                    yield event

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Watch without sharing the loop, as Airflow 3.2 does."""
        from limio_limitrail.triggers.poll_loop import looks
        from limio_limitrail.triggers.shared_poll import SharedPoll

        watcher = await self._make_watcher()
        shared_poll = SharedPoll()
        last: PollRound | None = None
        with shared_poll.place(watcher), self.connection_in_use():
            async for finding in looks(self, shared_poll):
                # By now Airflow has had the time from one look to the next to keep what was announced.
                if last is not None:
                    await last.acknowledge()
                async for event in self._tell(watcher, finding):
                    yield event
                last = finding

    async def _tell(self, watcher: Watcher, finding: PollRound) -> AsyncIterator[TriggerEvent]:
        for news in await watcher.take(finding):
            yield TriggerEvent(news.to_json())  # type: ignore[no-untyped-call] # likewise

    async def _make_watcher(self) -> Watcher:
        make: Callable[..., Watcher] = await in_thread(_import_watcher, lane=Lane(place="imports"))
        # Private, because Airflow offers no other way to reach the stores of all assets that one trigger watches.
        stores = getattr(getattr(self, "asset_state_store", None), "_by_name", {})
        watcher = make(self, stores=tuple(stores.values()))
        await watcher.prepare()
        return watcher


def _import_watcher() -> Any:
    """Import what a watch needs: the first time, this takes longer than an event loop may stand still."""
    from limio_limitrail.triggers.watch import Watcher

    return Watcher
