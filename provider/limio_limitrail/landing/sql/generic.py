# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Loads through any other driver: rows go in as bound values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from limio_limitrail.landing.sql.dialect import Session
from limio_limitrail.landing.sql.model import LandingError

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook


@contextmanager
def generic_session(hook: DbApiHook) -> Iterator[Session]:
    """Open a connection and a transaction for one load."""
    raise LandingError(hook.dialect_name)
    yield
