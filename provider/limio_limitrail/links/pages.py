# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Links from a task's page in Airflow to the page of what the task is about."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from airflow.sdk import BaseOperatorLink

log = logging.getLogger("limio_limitrail.links")


class LimioAppLink(BaseOperatorLink):
    """From a task to its object or list in the tenant's Limio app."""

    name = "Limio app"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:  # noqa: ARG002 - as Airflow calls it
        """Return the page's URL; empty if there is none."""
        return _without_fail(operator.page_url)


class LimitRailConsoleLink(BaseOperatorLink):
    """From a task to LimitRail's console."""

    name = "LimitRail console"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:  # noqa: ARG002 - as Airflow calls it
        """Return the page's URL; empty if there is none."""
        return _without_fail(operator.page_url)


class LedgerQueryLink(BaseOperatorLink):
    """From a usage task to the query that shows what became of its rows."""

    name = "Usage ledger"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the page's URL; empty if the task has not opened the ledger."""
        return _without_fail(lambda: operator.ledger_url(ti_key))


def _without_fail(find: Callable[[], str | None]) -> str:
    """Return an empty text instead of failing: Airflow asks after the task has ended, even if its connection cannot be read."""
    try:
        return find() or ""
    except Exception as error:  # noqa: BLE001 - see above
        log.debug("No link (%s).", type(error).__name__)
        return ""
