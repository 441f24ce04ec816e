# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a green task warns of: the words that commits and reconciliations of usage share."""

from __future__ import annotations

import logging
from collections.abc import Container, Sequence
from typing import TypedDict

from limio_limitrail.troubleshooting import address_of

log = logging.getLogger("limio_limitrail.usage")

OK, DEGRADED, FAILED = "ok", "degraded", "failed"

_PAGE = "how-to/degraded"


class UsageWarning(TypedDict):
    """Why a green task is degraded.

    ``name`` is that of the parameter without ``warn_``. ``count`` is a number of rows or records; of ``slower``, of seconds.
    ``usual`` is the median of earlier runs, if the limit depends on it.
    """

    name: str
    message: str
    count: int
    limit: str
    usual: int | None
    reasons: list[str]
    query: str
    docs: str


def make_warning(
    name: str,
    *,
    message: str,
    count: int,
    limit: str,
    query: str,
    section: str,
    usual: int | None = None,
    reasons: Sequence[str] = (),
) -> UsageWarning:
    """Return a warning.

    :param query: SQL that shows the rows, for people.
    :param section: the section of the docs that it is explained in.
    """
    return {
        "name": name,
        "message": message,
        "count": count,
        "limit": limit,
        "usual": usual,
        "reasons": list(reasons),
        "query": query,
        "docs": address_of(section, page=_PAGE),
    }


def log_warnings(
    warnings: Sequence[UsageWarning], *, operation: str, status: str, with_reasons_logged: Container[str] = ()
) -> None:
    """Log each warning.

    :param with_reasons_logged: names of warnings whose reasons are in the log already.
    """
    for warning in warnings:
        is_logged = warning["name"] in with_reasons_logged or not warning["reasons"]
        log.warning(
            "%s: %s: %s.%s To see the rows: %s. More: %s",
            operation,
            status,
            warning["message"],
            "" if is_logged else f" {'; '.join(warning['reasons'])}.",
            warning["query"],
            warning["docs"],
        )
