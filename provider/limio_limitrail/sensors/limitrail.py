# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""LimitRailResourceSensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import msgspec

from limio_limitrail.links.pages import LimitRailConsoleLink
from limio_limitrail.parameters import readers, times
from limio_limitrail.parameters.declared import Parameter, not_rendered, template_fields
from limio_limitrail.sensors.base import RecordsSensor

if TYPE_CHECKING:
    from airflow.triggers.base import BaseTrigger

    from limio_limitrail.api.resource import Resource
    from limio_limitrail.hooks.limitrail import LimitRailHook
    from limio_limitrail.parameters.declared import Templated
    from limio_limitrail.parameters.operator_arguments import SensorArguments
    from limio_limitrail.polling.poll import WaitSpec


class LimitRailResourceSensor(RecordsSensor):
    """Wait for a list of LimitRail's to have matching records: usage that appears in a runtime list.

    Parameters as for `RecordsSensor`, and:

    :param limitrail_conn_id: the LimitRail connection.
    :param scope: OAuth scopes to ask for besides the connection's, as a list or as a text with spaces.
    :param until: the upper bound in time, which is not part of the range. A runtime list demands one; the default is the end of
        the data interval, or the time after which the run was due.
    """

    operator_extra_links = (LimitRailConsoleLink(),)
    parameters: ClassVar[Mapping[str, Parameter]] = {
        **RecordsSensor.parameters,
        "limitrail_conn_id": Parameter(readers.text("the id of a connection")),
        "scope": Parameter(readers.scopes),
        "until": Parameter(readers.optional(times.instant)),
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
        until: Templated[datetime] | None = None,
        page_size: Templated[int] | None = None,
        predicate: str | Callable[[Mapping[str, Any]], bool] | None = None,
        limitrail_conn_id: Templated[str] = "limitrail_default",
        scope: Templated[str | Sequence[str]] | None = None,
        max_transient_failures: Templated[int] = 10,
        deferrable: bool | None = None,
        **kwargs: Unpack[SensorArguments],
    ) -> None:
        super().__init__(max_transient_failures=max_transient_failures, deferrable=deferrable, **kwargs)
        self.resource = resource
        self.path_params = path_params
        self.query_params = query_params
        self.min_records = min_records
        self.since = since
        self.page_size = page_size
        self.predicate = not_rendered("predicate", predicate)
        self.limitrail_conn_id: str = limitrail_conn_id
        self.scope: str | Sequence[str] | None = scope
        self.until = until

    @cached_property
    def hook(self) -> LimitRailHook:
        """The hook of the LimitRail connection."""
        from limio_limitrail.hooks.limitrail import LimitRailHook

        return LimitRailHook(self.limitrail_conn_id, scope=self.scope)

    def make_trigger(self, spec: WaitSpec) -> BaseTrigger:
        """Return the trigger that continues to wait."""
        from limio_limitrail.triggers.limitrail import LimitRailWaitTrigger

        return LimitRailWaitTrigger(
            limitrail_conn_id=self.limitrail_conn_id, scope=self.hook.scopes, **msgspec.structs.asdict(spec)
        )
