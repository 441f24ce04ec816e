# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""LimioToObjectStorageOperator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from limio_limitrail.links.pages import LimioAppLink
from limio_limitrail.parameters import readers
from limio_limitrail.parameters.declared import Parameter, template_fields
from limio_limitrail.transfers.to_object_storage import ResourceToObjectStorageOperator

if TYPE_CHECKING:
    from limio_limitrail.hooks.limio import LimioHook
    from limio_limitrail.parameters.declared import Templated


class LimioToObjectStorageOperator(ResourceToObjectStorageOperator):
    """Pull a Limio resource into part files that stay.

    :param limio_conn_id: the Limio connection.
    """

    operator_extra_links = (LimioAppLink(),)
    parameters: ClassVar[Mapping[str, Parameter]] = {
        **ResourceToObjectStorageOperator.parameters,
        "limio_conn_id": Parameter(readers.text("the id of a connection")),
    }
    template_fields: Sequence[str] = template_fields(parameters)

    def __init__(self, *, limio_conn_id: Templated[str] = "limio_default", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.limio_conn_id: str = limio_conn_id

    @property
    def api_conn_id(self) -> str:
        return self.limio_conn_id

    @cached_property
    def hook(self) -> LimioHook:
        """The hook of the Limio connection."""
        from limio_limitrail.hooks.limio import LimioHook

        return LimioHook(self.limio_conn_id)
