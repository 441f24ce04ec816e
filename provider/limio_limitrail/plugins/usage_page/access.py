# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Who may see and who may settle: Airflow decides, by the Dag."""

from __future__ import annotations

from typing import Any

from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import HTTPException, Request

HEADER = "X-Limitrail-Page"
"""A header that no form and no page of another origin can send without being asked for it first (CORS)."""


def may_read(request: Request, user: Any, *, dag_id: str) -> bool:
    """Return whether a user may read a Dag."""
    return _may(request, user, dag_id=dag_id, method="GET")


def may_edit(request: Request, user: Any, *, dag_id: str) -> bool:
    """Return whether a user may edit a Dag."""
    return bool(dag_id) and _may(request, user, dag_id=dag_id, method="PUT")


def _may(request: Request, user: Any, *, dag_id: str, method: Any) -> bool:
    check: Any = requires_access_dag(method=method, param_dag_id=dag_id)
    try:
        check(request=request, user=user)
    except HTTPException as error:
        if error.status_code == 403:
            return False
        raise
    return True


def require_own_page(request: Request) -> None:
    """Refuse a request that another site has made a browser send.

    :raises HTTPException: it does not come from the page.
    """
    if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin" or request.headers.get(HEADER) != "1":
        raise HTTPException(403, f"Settle from the page itself, or send the header {HEADER}: 1")
    if request.headers.get("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "Send JSON")
