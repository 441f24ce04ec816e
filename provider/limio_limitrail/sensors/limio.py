# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""LimioObjectSensor and LimioResourceSensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from limio_limitrail.links.pages import LimioAppLink
from limio_limitrail.parameters import readers
from limio_limitrail.parameters.declared import Parameter, template_fields
from limio_limitrail.sensors.base import WaitSensor
from limio_limitrail.sensors.records import RecordsSensor

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.triggers.base import BaseTrigger

    from limio_limitrail.hooks.limio import LimioHook
    from limio_limitrail.parameters.declared import Templated
    from limio_limitrail.polling.objects import ObjectWait


class _OfLimio:
    """What both sensors know of their connection."""

    limio_conn_id: str

    @cached_property
    def hook(self) -> LimioHook:
        """The hook of the Limio connection."""
        from limio_limitrail.hooks.limio import LimioHook

        return LimioHook(self.limio_conn_id)

    def make_trigger(self, **kwargs: Any) -> BaseTrigger:
        """Make the trigger that goes on waiting."""
        from limio_limitrail.triggers.limio import LimioWaitTrigger

        return LimioWaitTrigger(limio_conn_id=self.limio_conn_id, **kwargs)


class LimioObjectSensor(_OfLimio, WaitSensor):
    """Wait for a Limio object to exist, or to reach a status.

    Statuses are compared without case. One that is named neither as a target nor as a failure is not final: Limio's documented
    statuses and those that it really answers differ.

    :param path_type: the kind of object, such as ``orders``, ``subscriptions`` or ``process`` (an order's processing).
    :param object_id: its id.
    :param target_statuses: the statuses that end the wait, as a list or as one text; left out, it is enough that the object is
        there.
    :param failed_statuses: the statuses that fail the task at once.
    :param missing: what it means that the object is not there: ``wait``, or ``fail``.
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
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.path_type: str = path_type
        self.object_id: str = object_id
        self.target_statuses: Sequence[str] = target_statuses
        self.failed_statuses: Sequence[str] = failed_statuses
        self.missing: str = missing
        self.service: str = service
        self.limio_conn_id: str = limio_conn_id

    def page_url(self) -> str:
        """Give the URL of the page that shows the object."""
        return self.hook.page_url(self.path_type, resource=self.path_type, id=self.object_id, service=self.service)

    def wait_for(self, context: Context) -> ObjectWait:  # noqa: ARG002 - as the base calls it
        """Give what is waited for.

        :raises ParameterError: a parameter does not fit.
        """
        from limio_limitrail.polling.objects import Missing, ObjectWait

        return ObjectWait(
            path_type=self.path_type,
            object_id=self.object_id,
            target_statuses=tuple(self.target_statuses),
            failed_statuses=tuple(self.failed_statuses),
            missing=Missing(self.missing),
            service=self.service,
        )


class LimioResourceSensor(_OfLimio, RecordsSensor):
    """Wait for a list of Limio's to have records that match: new abandoned baskets, a published catalog item.

    :param limio_conn_id: the Limio connection.
    """

    operator_extra_links = (LimioAppLink(),)
    parameters: ClassVar[Mapping[str, Parameter]] = {
        **RecordsSensor.parameters,
        "limio_conn_id": Parameter(readers.text("the id of a connection")),
    }
    template_fields: Sequence[str] = template_fields(parameters)

    def __init__(self, *, limio_conn_id: Templated[str] = "limio_default", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.limio_conn_id: str = limio_conn_id
