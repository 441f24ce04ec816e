# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""LimioObjectSensor and LimioResourceSensor."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from limio_limitrail.links.pages import LimioAppLink
from limio_limitrail.sensors.base import WaitSensor
from limio_limitrail.sensors.records import RecordsSensor

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.triggers.base import BaseTrigger

    from limio_limitrail.hooks.limio import LimioHook
    from limio_limitrail.waiting.objects import ObjectWait


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
    :param target_statuses: the statuses that end the wait; left out, it is enough that the object is there.
    :param failed_statuses: the statuses that fail the task at once.
    :param missing: what it means that the object is not there: ``wait``, or ``fail``.
    :param service: whose object it is.
    :param limio_conn_id: the Limio connection.
    """

    operator_extra_links = (LimioAppLink(),)
    template_fields: Sequence[str] = (
        "path_type",
        "object_id",
        "target_statuses",
        "failed_statuses",
        "missing",
        "service",
        "limio_conn_id",
    )

    def __init__(
        self,
        *,
        path_type: str,
        object_id: str,
        target_statuses: str | Sequence[str] = (),
        failed_statuses: str | Sequence[str] = (),
        missing: str = "wait",
        service: str = "limio",
        limio_conn_id: str = "limio_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.path_type = path_type
        self.object_id = object_id
        self.target_statuses = target_statuses
        self.failed_statuses = failed_statuses
        self.missing = missing
        self.service = service
        self.limio_conn_id = limio_conn_id

    def page_url(self) -> str:
        """Give the URL of the page that shows the object."""
        return self.hook.page_url(self.path_type, resource=self.path_type, id=self.object_id, service=self.service)

    def wait_for(self, context: Context) -> ObjectWait:  # noqa: ARG002 - as the base calls it
        """Give what is waited for.

        :raises ParameterError: a parameter does not fit.
        """
        from limio_limitrail.api.errors import ParameterError
        from limio_limitrail.waiting.objects import Missing, ObjectWait

        try:
            missing = Missing(self.missing)
        except ValueError:
            raise ParameterError(f"missing={self.missing!r} is neither {' nor '.join(Missing)}") from None
        return ObjectWait(
            path_type=self.path_type,
            object_id=self.object_id,
            target_statuses=_several(self.target_statuses),
            failed_statuses=_several(self.failed_statuses),
            missing=missing,
            service=self.service,
        )


class LimioResourceSensor(_OfLimio, RecordsSensor):
    """Wait for a list of Limio's to have records that match: new abandoned baskets, a published catalog item.

    :param limio_conn_id: the Limio connection.
    """

    operator_extra_links = (LimioAppLink(),)
    template_fields: Sequence[str] = ("limio_conn_id", *RecordsSensor.template_fields)

    def __init__(self, *, limio_conn_id: str = "limio_default", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.limio_conn_id = limio_conn_id


def _several(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)
