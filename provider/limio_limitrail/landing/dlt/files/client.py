# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""dlt's filesystem, with one job of this package's that writes the table: dlt's own add rows again in a retry."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dlt.destinations.impl.filesystem.filesystem import ReferenceFollowupJob

if TYPE_CHECKING:
    from dlt.common.destination import Destination

WriteFiles = Callable[[Sequence[str]], None]
"""Writes the rows of Parquet files of the working folder into the table."""


class WriteTableJob(ReferenceFollowupJob):
    """Writes all rows of a load at once."""

    write: WriteFiles

    def run(self) -> None:
        """Write them."""
        type(self).write(self.file_paths)


def writes_by(destination: Destination[Any, Any], write: WriteFiles) -> Destination[Any, Any]:
    """Return the same destination, which lets a function write the table."""
    base, client = type(destination), destination.client_class
    job = type("WriteTableJob", (WriteTableJob,), {"write": staticmethod(write)})

    def job_class(self: Any, table: Any) -> Any:
        return None if self.is_dlt_table(table["name"]) else job

    members: dict[str, Any] = {"get_reference_followup_job_class": job_class, "__module__": client.__module__}
    own_client = type(client.__name__, (client,), members)
    own = copy.copy(destination)
    own.__class__ = type(
        base.__name__,
        (base,),
        {
            "client_class": property(lambda _: own_client),
            "__module__": base.__module__,
            "__qualname__": base.__qualname__,
        },
    )
    return own
