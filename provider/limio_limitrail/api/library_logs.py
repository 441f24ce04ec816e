# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What the HTTP libraries log of an answer, such as headers that they cannot read, passes the gate as well."""

from __future__ import annotations

import logging

from limio_limitrail.api.known_secrets import find_secrets
from limio_limitrail.api.redact import safe_text

_LOGGERS = (
    "urllib3.connection",
    "urllib3.connectionpool",
    "urllib3.poolmanager",
    "urllib3.response",
    "urllib3.util.retry",
    "aiohttp.client",
    "aiohttp.internal",
)

_MOST_READ = 2_000
"""What is longer is no library's own sentence."""


class _Gate(logging.Filter):
    """Masks what repeats a secret, and shortens it; everything else stays, whoever it is about."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        told = record.getMessage()
        if any(len(text) > _MOST_READ or find_secrets(text) for text in (told, "" if error is None else str(error))):
            record.msg, record.args = safe_text(told) or "", ()
            record.exc_info = record.exc_text = None
        return True


_gate = _Gate()


def guard_library_logs() -> None:
    """Have the logs of the HTTP libraries masked. It may be called any number of times."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_gate)
