# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What can go wrong between a page and a part."""

from __future__ import annotations

from limio_limitrail.troubleshooting import ExplainedError


class RecordError(ExplainedError, ValueError):
    """Records cannot be landed as they are. The message says where and what to do, and holds no value of any record."""
