# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Load the parts of a pull into a database table, all of them or nothing.

May import `landing`, `concurrency` and the root's helpers; knows nothing of either API. Importing it is cheap.
Begin reading at `loading.load` and `table_load`; `plan` and `schema_evolution` change columns, `sessions` chooses the database,
`errors` is what messages say.
"""

from typing import TYPE_CHECKING

from limio_limitrail.lazy import lazy_names

if TYPE_CHECKING:
    from limio_limitrail.landing.sql.contract import Contract, ContractError, NewColumns, TypeChanges
    from limio_limitrail.landing.sql.loading import load
    from limio_limitrail.landing.sql.metadata import EXTRACTED_AT, RUN_ID
    from limio_limitrail.landing.sql.model import LandingError, LoadResult, PartSource, Target, WriteMode
    from limio_limitrail.landing.sql.partitions import Partitions

__all__ = [
    "EXTRACTED_AT",
    "RUN_ID",
    "Contract",
    "ContractError",
    "LandingError",
    "LoadResult",
    "NewColumns",
    "PartSource",
    "Partitions",
    "Target",
    "TypeChanges",
    "WriteMode",
    "load",
]

__getattr__ = lazy_names(
    __name__,
    modules={
        "limio_limitrail.landing.sql.contract": ("Contract", "ContractError", "NewColumns", "TypeChanges"),
        "limio_limitrail.landing.sql.loading": ("load",),
        "limio_limitrail.landing.sql.metadata": ("EXTRACTED_AT", "RUN_ID"),
        "limio_limitrail.landing.sql.model": ("LandingError", "LoadResult", "PartSource", "Target", "WriteMode"),
        "limio_limitrail.landing.sql.partitions": ("Partitions",),
    },
)
