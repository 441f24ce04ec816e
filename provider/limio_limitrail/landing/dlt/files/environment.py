# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Hide the clouds' variables of the environment from what would prefer them to the connection, or add them to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_PREFIXES = ("AWS_", "AZURE_", "GOOGLE_")


@contextmanager
def own_credentials_only(credentials: Any) -> Iterator[None]:
    """Hide them while files are written by a connection with credentials of its own.

    deltalake reads dozens of them, such as ``AWS_SESSION_TOKEN`` and ``AWS_S3_ALLOW_UNSAFE_RENAME``, for what it is not told.

    :param credentials: dlt's, of the bucket; ``None`` for a folder. Those of the worker itself may need the environment.
    """
    of_worker = getattr(credentials, "has_default_credentials", None)
    if credentials is None or (of_worker is not None and of_worker()):
        yield
        return
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(_PREFIXES)}
    try:
        yield
    finally:
        os.environ.update(hidden)
