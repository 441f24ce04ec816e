# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""LimioObjectSensor and LimioResourceSensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import msgspec

from limio_limitrail.links.pages import LimioAppLink
from limio_limitrail.parameters import readers
from limio_limitrail.parameters.declared import Parameter, not_rendered, template_fields
from limio_limitrail.sensors.base import RecordsSensor, WaitSensor

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.triggers.base import BaseTrigger

    from limio_limitrail.api.resource import Resource
    from limio_limitrail.hooks.limio import LimioHook
    from limio_limitrail.parameters.declared import Templated
    from limio_limitrail.parameters.operator_arguments import SensorArguments
    from limio_limitrail.polling.conditions import ObjectCondition
    from limio_limitrail.polling.poll import WaitSpec


class _LimioSensorMixin:
    limio_conn_id: str

    @cached_property
    def hook(self) -> LimioHook:
        """The hook of the Limio connection."""
        from limio_limitrail.hooks.limio import LimioHook

        return LimioHook(self.limio_conn_id)

    def make_trigger(self, spec: WaitSpec) -> BaseTrigger:
        """Return the trigger that continues to wait."""
        from limio_limitrail.triggers.limio import LimioWaitTrigger

        return LimioWaitTrigger(limio_conn_id=self.limio_conn_id, **msgspec.structs.asdict(spec))


class LimioObjectSensor(_LimioSensorMixin, WaitSensor):
    """Wait for a Limio object to exist, or to reach a status.

    Statuses are compared without case. One that is named neither as a target nor as a failure is not final: Limio's documented
    statuses and those that it really answers differ.

    :param path_type: the kind of object, such as ``orders``, ``subscriptions`` or ``process`` (an order's processing).
    :param object_id: its id.
    :param target_statuses: the statuses that end the wait, as a list or as one text; by default it is enough that the object
        exists.
    :param failed_statuses: the statuses that fail the task at once.
    :param missing: if the object does not exist, ``wait`` or ``fail``.
    :param service: whose object it is.
    :param limio_conn_id: the Limio connection.
    """

    operator_extra_links = (LimioAppLink(),)
    parameters: ClassVar[Mapping[str, Parameter]] = {
        **WaitSensor.parameters,
        "path_type": Parameter(readers.text("a kind of object")),
        "object_id": Parameter(readers.text("the id of an object")),
        "target_statuses": Parameter(readers.names("statuses")),
        "failed_statuses": Parameter(readers.names("statuses")),
        "missing": Parameter(readers.choice("wait", "fail")),
        "service": Parameter(readers.text("the name of a service")),
        "limio_conn_id": Parameter(readers.text("the id of a connection")),
    }
    template_fields: Sequence[str] = template_fields(parameters)

    def __init__(
        self,
        *,
        path_type: Templated[str],
        object_id: Templated[str],
        target_statuses: Templated[Sequence[str]] = (),
        failed_statuses: Templated[Sequence[str]] = (),
        missing: Templated[str] = "wait",
        service: Templated[str] = "limio",
        limio_conn_id: Templated[str] = "limio_default",
        max_transient_failures: Templated[int] = 10,
        deferrable: bool | None = None,
        **kwargs: Unpack[SensorArguments],
    ) -> None:
        super().__init__(max_transient_failures=max_transient_failures, deferrable=deferrable, **kwargs)
        self.path_type: str = path_type
        self.object_id: str = object_id
        self.target_statuses: Sequence[str] = target_statuses
        self.failed_statuses: Sequence[str] = failed_statuses
        self.missing: str = missing
        self.service: str = service
        self.limio_conn_id: str = limio_conn_id

    def page_url(self) -> str:
        """Return the URL of the page that shows the object."""
        return self.hook.page_url(self.path_type, resource=self.path_type, id=self.object_id, service=self.service)

    def condition(self, context: Context) -> ObjectCondition:  # noqa: ARG002 - as the base calls it
        """Return what to wait for.

        :raises ParameterError: a parameter is wrong.
        """
        from limio_limitrail.polling.conditions import Missing, ObjectCondition

        return ObjectCondition(
            path_type=self.path_type,
            object_id=self.object_id,
            target_statuses=tuple(self.target_statuses),
            failed_statuses=tuple(self.failed_statuses),
            missing=Missing(self.missing),
            service=self.service,
        )


class LimioResourceSensor(_LimioSensorMixin, RecordsSensor):
    """Wait for a list of Limio's to have matching records: new abandoned baskets, a published catalog item.

    Parameters as for `RecordsSensor`, and:

    :param limio_conn_id: the Limio connection.
    """

    operator_extra_links = (LimioAppLink(),)
    parameters: ClassVar[Mapping[str, Parameter]] = {
        **RecordsSensor.parameters,
        "limio_conn_id": Parameter(readers.text("the id of a connection")),
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
        limio_conn_id: Templated[str] = "limio_default",
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
        self.limio_conn_id: str = limio_conn_id
