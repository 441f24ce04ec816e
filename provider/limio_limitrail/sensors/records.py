# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What the sensors on lists share, whichever API the list is of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

from limio_limitrail.parameters import places, readers, times
from limio_limitrail.parameters.declared import Parameter, not_rendered, template_fields
from limio_limitrail.sensors.base import WaitSensor

if TYPE_CHECKING:
    from airflow.sdk import Context

    from limio_limitrail.api.resource import Resource
    from limio_limitrail.hooks.time_range import TimeRange
    from limio_limitrail.parameters.declared import Templated
    from limio_limitrail.polling.conditions import RecordsWait


class RecordsSensor(WaitSensor):
    """Wait for a list to have records that match. The base of the sensors that people use.

    Each look reads the list from its beginning until enough records match. A list that cannot be filtered by time is read whole
    as long as they do not.

    :param resource: a name of the API's table of resources, or a `Resource` of your own.
    :param path_params: values for the placeholders of the resource's path, such as ``service``.
    :param query_params: further query parameters.
    :param min_records: how many records must match.
    :param since: the lower bound in time, for lists that filter by it: a datetime, or an ISO 8601 text. A list that demands one
        has the start of the data interval where it is left out.
    :param page_size: records to ask for a page; else the connection's.
    :param predicate: says whether a record (a mapping) matches: a function, or its import path. To wait in the triggerer it
        must be a path, and of a module that the triggerer has. No template.
    """

    # Only an API whose filters have an upper bound makes a parameter of it.
    until: datetime | None = None

    parameters: ClassVar[Mapping[str, Parameter]] = {
        **WaitSensor.parameters,
        "resource": Parameter(places.resource),
        "path_params": Parameter(readers.param_values),
        "query_params": Parameter(readers.param_values),
        "min_records": Parameter(readers.whole_number(least=1)),
        "since": Parameter(readers.optional(times.instant)),
        "page_size": Parameter(readers.optional(readers.whole_number(least=1))),
        "predicate": Parameter(readers.optional(places.function_or_path), templated=False),
    }
    template_fields: Sequence[str] = template_fields(parameters)

    def __init__(
        self,
        *,
        resource: Templated[str | Resource],
        path_params: Templated[Mapping[str, Any]] | None = None,
        query_params: Templated[Mapping[str, Any]] | None = None,
        min_records: Templated[int] = 1,
        since: Templated[datetime] | None = None,
        page_size: Templated[int] | None = None,
        predicate: str | Callable[[Mapping[str, Any]], bool] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.resource: str | Resource = resource
        self.path_params: Mapping[str, Any] | None = path_params
        self.query_params: Mapping[str, Any] | None = query_params
        self.min_records: int = min_records
        self.since: datetime | None = since
        self.page_size: int | None = page_size
        self.predicate = not_rendered("predicate", predicate)

    def page_url(self) -> str:
        """Give the URL of the page that shows the list."""
        what = self.resource if isinstance(self.resource, str) else self.resource.name
        return self.hook.page_url(what, resource=what)

    def predicate_path(self) -> str | None:
        """Give the import path of the predicate.

        :raises ParameterError: it is a function that stands in the Dag.
        """
        from limio_limitrail.api.errors import ParameterError

        if callable(self.predicate):
            raise ParameterError(
                "predicate= is a function, which cannot be handed to a triggerer: give its import path, such as "
                "my_package.my_module.my_function, or wait with deferrable=False"
            )
        return self.predicate

    def time_range(self, context: Context, resource: Resource) -> TimeRange:
        """Return the range of time to look at, by the rule of the pulls.

        :raises ParameterError: a bound does not go with the list.
        """
        from limio_limitrail.hooks.time_range import RunTimes, choose_range

        return choose_range(resource, run=RunTimes.of(context), since=self.since, until=self.until)

    def wait_for(self, context: Context) -> RecordsWait:
        """Give what is waited for.

        :raises ParameterError: a parameter does not fit.
        """
        from limio_limitrail.polling.conditions import RecordsWait

        resource = self.hook.find_resource(self.resource)
        chosen = self.time_range(context, resource)
        return RecordsWait(
            resource=resource,
            path_params=dict(self.path_params or {}),
            query_params=dict(self.query_params or {}),
            since=chosen.since,
            until=chosen.until,
            min_records=self.min_records,
            page_size=self.page_size or self.hook.page_size,
            predicate=None if self.predicate is None else places.function("predicate", self.predicate),
        )
