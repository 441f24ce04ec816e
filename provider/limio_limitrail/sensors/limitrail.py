# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""LimitRailResourceSensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from limio_limitrail.links.pages import LimitRailConsoleLink
from limio_limitrail.parameters import readers, times
from limio_limitrail.parameters.declared import Parameter, template_fields
from limio_limitrail.sensors.records import RecordsSensor

if TYPE_CHECKING:
    from airflow.triggers.base import BaseTrigger

    from limio_limitrail.hooks.limitrail import LimitRailHook
    from limio_limitrail.parameters.declared import Templated


class LimitRailResourceSensor(RecordsSensor):
    """Wait for a list of LimitRail's to have records that match: usage that shows up in a runtime list.

    :param limitrail_conn_id: the LimitRail connection.
    :param scope: OAuth scopes to ask for besides the connection's, as a list or as a text with spaces.
    :param until: the upper bound in time, which does not belong to the range. A runtime list demands one; left out, it is the
        end of the data interval, or the time after which the run was due.
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
        limitrail_conn_id: Templated[str] = "limitrail_default",
        scope: Templated[Sequence[str]] | None = None,
        until: Templated[datetime] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.limitrail_conn_id: str = limitrail_conn_id
        self.scope: Sequence[str] | None = scope
        self.until: datetime | None = until

    @cached_property
    def hook(self) -> LimitRailHook:
        """The hook of the LimitRail connection."""
        from limio_limitrail.hooks.limitrail import LimitRailHook

        return LimitRailHook(self.limitrail_conn_id, scope=self.scope)

    def make_trigger(self, **kwargs: Any) -> BaseTrigger:
        """Make the trigger that goes on waiting."""
        from limio_limitrail.triggers.limitrail import LimitRailWaitTrigger

        return LimitRailWaitTrigger(limitrail_conn_id=self.limitrail_conn_id, scopes=list(self.hook.scopes), **kwargs)
