# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""LimitRailResourceSensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from limio_limitrail.links.pages import LimitRailConsoleLink
from limio_limitrail.parameters import readers, times
from limio_limitrail.parameters.declared import Parameter, template_fields
from limio_limitrail.sensors.records import RecordsSensor

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.triggers.base import BaseTrigger

    from limio_limitrail.api.resource import Resource
    from limio_limitrail.hooks.limitrail import LimitRailHook
    from limio_limitrail.parameters.declared import Templated


class LimitRailResourceSensor(RecordsSensor):
    """Wait for a list of LimitRail's to have records that match: usage that shows up in a runtime list.

    :param limitrail_conn_id: the LimitRail connection.
    :param scope: OAuth scopes to ask for besides the connection's, as a list or as a text with spaces.
    :param until: the upper bound in time; a runtime list demands one, and has the end of the data interval where it is left out.
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

    def window(self, context: Context, resource: Resource) -> tuple[datetime | None, datetime | None]:
        """Give the bounds in time.

        :raises ParameterError: the window is empty.
        """
        from limio_limitrail.api.errors import ParameterError

        since, _ = super().window(context, resource)
        until = self.until
        needed = resource.time_filter is not None and resource.time_filter.until is not None
        if until is None and needed and (end := context.get("data_interval_end")) is not None:
            until = datetime.fromtimestamp(end.timestamp(), tz=UTC)
        if since is not None and until is not None and since >= until:
            raise ParameterError(
                f"the window from {since.isoformat()} to {until.isoformat()} is empty, so nothing can show up in it. Airflow 3 "
                "gives cron schedules empty data intervals unless told otherwise: give since= and until="
            )
        return since, until
