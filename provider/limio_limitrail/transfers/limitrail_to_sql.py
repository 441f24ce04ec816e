# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""LimitRailToSqlOperator."""

from __future__ import annotations

from collections.abc import Sequence

from limio_limitrail.transfers.limitrail_pull import LimitRailPull
from limio_limitrail.transfers.to_sql import ResourceToSqlOperator


class LimitRailToSqlOperator(LimitRailPull, ResourceToSqlOperator):
    """Pull a LimitRail resource into a table, in one transaction.

    All parameters are those of the two bases.
    """

    template_fields: Sequence[str] = (*LimitRailPull.template_fields, *ResourceToSqlOperator.template_fields)
