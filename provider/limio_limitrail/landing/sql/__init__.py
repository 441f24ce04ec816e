# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Parts become a table: a pull is written into a database, all of it or nothing."""

from limio_limitrail.landing.sql.loading import load
from limio_limitrail.landing.sql.model import (
    EXTRACTED_AT,
    RUN_ID,
    LandingError,
    LoadResult,
    PartSource,
    Target,
    WriteMode,
)

__all__ = ["EXTRACTED_AT", "RUN_ID", "LandingError", "LoadResult", "PartSource", "Target", "WriteMode", "load"]
