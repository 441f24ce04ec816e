# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Who is calling, with versions: an API's support asks for it first."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version

from limio_limitrail import __version__


@cache
def user_agent() -> str:
    """Give the User-Agent header's value."""

    def of(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "unknown"

    return (
        f"airflow-provider-limio-limitrail/{__version__} apache-airflow/{of('apache-airflow')} python-requests/{of('requests')}"
    )
