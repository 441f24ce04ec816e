# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""LimitRailToSqlOperator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from limio_limitrail.parameters.declared import Parameter, template_fields
from limio_limitrail.transfers.limitrail_pull import LimitRailPull
from limio_limitrail.transfers.to_sql import ResourceToSqlOperator


class LimitRailToSqlOperator(LimitRailPull, ResourceToSqlOperator):
    """Pull a LimitRail resource into a table, in one transaction.

    All parameters are those of the two bases.
    """

    parameters: ClassVar[Mapping[str, Parameter]] = {**ResourceToSqlOperator.parameters, **LimitRailPull.parameters}
    template_fields: Sequence[str] = template_fields(parameters)
