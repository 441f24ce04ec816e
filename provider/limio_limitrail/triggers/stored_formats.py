# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The formats of what Airflow keeps of triggers: of what they are made, and of what they tell."""

from __future__ import annotations

from limio_limitrail.stored_formats import trouble

KWARGS_FORMAT = 2
"""Of what a trigger is made. Format 1 is the same without the number."""

EVENT_FORMAT = 1
"""Of what the trigger of a wait tells its task; what carries no number is of format 1, too."""


def unmade(format_version: object) -> str | None:
    """Say why a trigger cannot be made again, as the end of a sentence that begins with it; none where it can be."""
    return trouble(format_version, reads=KWARGS_FORMAT)
