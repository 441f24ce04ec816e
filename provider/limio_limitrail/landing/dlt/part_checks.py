# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Checks of the parts before dlt gets their rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from limio_limitrail.landing.sql.contract import Contract, ContractError

if TYPE_CHECKING:
    from limio_limitrail.landing.column_parts import ColumnPart
    from limio_limitrail.landing.sql.plan import LoadPlan


def check_required(parts: Sequence[ColumnPart], *, plan: LoadPlan, contract: Contract) -> None:
    """Refuse rows that have no value in a required column.

    :raises ContractError: there are none with one.
    """
    wanted = set(contract.required_columns)
    if not wanted:
        return
    for part in parts:
        for group in part.groups(keys=wanted):
            wanted -= {key for key in wanted if key in group.column_names and group.column(key).null_count < group.num_rows}
        if not wanted:
            return
    named = ", ".join(repr(key) for key in contract.required_columns if key in wanted)
    raise ContractError(
        f"{plan.table}: columns of required_columns= have no value in any record: {named}. Nothing was written. A retry pulls "
        "the list again; if the API no longer sends them, take them out of required_columns="
    )
