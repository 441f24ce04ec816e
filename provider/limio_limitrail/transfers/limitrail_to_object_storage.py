# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""LimitRailToObjectStorageOperator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from limio_limitrail.parameters.declared import Parameter, template_fields
from limio_limitrail.transfers.limitrail_pull import LimitRailPull
from limio_limitrail.transfers.to_object_storage import ResourceToObjectStorageOperator


class LimitRailToObjectStorageOperator(LimitRailPull, ResourceToObjectStorageOperator):
    """Pull a LimitRail resource into part files that stay.

    All parameters are those of the two bases.
    """

    parameters: ClassVar[Mapping[str, Parameter]] = {**ResourceToObjectStorageOperator.parameters, **LimitRailPull.parameters}
    template_fields: Sequence[str] = template_fields(parameters)
