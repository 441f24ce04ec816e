# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The base of the sensors on lists, whichever API they belong to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.parameters import readers, references, times
from limio_limitrail.parameters.declared import Parameter, template_fields
from limio_limitrail.sensors.base import WaitSensor

if TYPE_CHECKING:
    from airflow.sdk import Context

    from limio_limitrail.api.resource import Resource
    from limio_limitrail.polling.conditions import RecordsCondition


class RecordsSensor(WaitSensor):
    """Wait for a list to have matching records. The base of the sensors that people use.

    Each poll reads the list from its beginning until enough records match. A list that cannot be filtered by time is read whole
    as long as they do not.

    :param resource: a name of the API's table of resources, or a `Resource` of your own.
    :param path_params: values for the placeholders of the resource's path, such as ``service``.
    :param query_params: further query parameters.
    :param min_records: how many records must match.
    :param since: the lower bound in time, for lists that filter by it: a datetime, or an ISO 8601 text. For a list that demands
        one, the default is the start of the data interval.
    :param page_size: records to ask for per page; by default the connection's.
    :param predicate: says whether a record (a mapping) matches: a function, or its import path. To wait in the triggerer it
        must be a path, and of a module that the triggerer has. Not a template.
    """

    resource: str | Resource
    path_params: Mapping[str, Any] | None
    query_params: Mapping[str, Any] | None
    min_records: int
    since: datetime | None
    until: datetime | None = None  # a parameter only of an API whose filters have an upper bound
    page_size: int | None
    predicate: str | Callable[[Mapping[str, Any]], bool] | None

    parameters: ClassVar[Mapping[str, Parameter]] = {
        **WaitSensor.parameters,
        "resource": Parameter(references.resource),
        "path_params": Parameter(readers.param_values),
        "query_params": Parameter(readers.param_values),
        "min_records": Parameter(readers.whole_number(least=1)),
        "since": Parameter(readers.optional(times.instant)),
        "page_size": Parameter(readers.optional(readers.whole_number(least=1))),
        "predicate": Parameter(readers.optional(references.function_or_path), templated=False),
    }
    template_fields: Sequence[str] = template_fields(parameters)

    def page_url(self) -> str:
        """Return the URL of the page that shows the list."""
        name = self.resource if isinstance(self.resource, str) else self.resource.name
        return self.hook.page_url(name, resource=name)

    def predicate_path(self) -> str | None:
        """Return the import path of the predicate.

        :raises ParameterError: it is a function of the Dag file.
        """
        if callable(self.predicate):
            raise ParameterError(
                "predicate= is a function, which cannot be handed to a triggerer: give its import path, such as "
                "my_package.my_module.my_function, or wait with deferrable=False"
            )
        return self.predicate

    def condition(self, context: Context) -> RecordsCondition:
        """Return what to wait for, in the range of time that a pull would have.

        :raises ParameterError: a parameter is wrong, or a bound does not suit the list.
        """
        from limio_limitrail.hooks.time_range import RunTimes, choose_range
        from limio_limitrail.polling.conditions import RecordsCondition

        resource = self.hook.find_resource(self.resource)
        time_range = choose_range(resource, run=RunTimes.of(context), since=self.since, until=self.until)
        return RecordsCondition(
            resource=resource,
            path_params=dict(self.path_params or {}),
            query_params=dict(self.query_params or {}),
            since=time_range.since,
            until=time_range.until,
            min_records=self.min_records,
            page_size=self.page_size or self.hook.page_size,
            predicate=None if self.predicate is None else references.function("predicate", self.predicate),
        )
