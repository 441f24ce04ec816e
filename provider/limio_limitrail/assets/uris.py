# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""URIs of lists: ``limio://acme.prod.limio.com/subscriptions``, ``limitrail://api.limitrail.com/usage``.

Airflow asks these functions to bring a URI into its one form, so that two spellings are one asset, and to tell OpenLineage of it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from limio_limitrail.addresses import without_credentials
from limio_limitrail.urls import unfit_path

if TYPE_CHECKING:
    from urllib.parse import SplitResult

    from airflow.sdk import Asset

_PATH = re.compile(r"/[A-Za-z0-9_.~%-]+(/[A-Za-z0-9_.~%-]+)*")


def sanitize_limio_uri(uri: SplitResult) -> SplitResult:
    """Bring ``limio://<tenant or host>/<resource>`` into its one form.

    :raises ValueError: it names no tenant or no resource.
    """
    return _sanitize(uri, scheme="limio", example="limio://acme.prod.limio.com/subscriptions")


def sanitize_limitrail_uri(uri: SplitResult) -> SplitResult:
    """Bring ``limitrail://<host>/<resource>`` into its one form.

    :raises ValueError: it names no host or no resource.
    """
    return _sanitize(uri, scheme="limitrail", example="limitrail://api.limitrail.com/usage")


def _sanitize(uri: SplitResult, *, scheme: str, example: str) -> SplitResult:
    try:
        port = uri.port
    except ValueError:
        raise ValueError(f"the port of {_shown(uri)!r} is no number; write {example}") from None
    if not uri.hostname or uri.username is not None:
        raise ValueError(f"{_shown(uri)!r} must name a host, and no user; write {example}")
    if not _PATH.fullmatch(uri.path) or unfit_path(uri.path) is not None:
        raise ValueError(f"{_shown(uri)!r} must name a resource after the host; write {example}")
    if uri.query:
        raise ValueError(f"{_shown(uri)!r} has a query, which tells no list from another; write {example}")
    host = f"[{uri.hostname}]" if ":" in uri.hostname else uri.hostname
    return uri._replace(scheme=scheme, netloc=host if port in {None, 443} else f"{host}:{port}", fragment="")


def _shown(uri: SplitResult) -> str:
    return without_credentials(uri.geturl())


def create_limio_asset(*, host: str, resource: str, name: str | None = None, extra: dict[str, Any] | None = None) -> Asset:
    """Make the asset of a list of Limio's.

    :param host: the tenant's host, as in the connection.
    :param resource: the list's name.
    :param name: what Airflow calls it; else its URI.
    :param extra: what Airflow keeps with it.
    :raises ValueError: the host or the resource cannot be part of a URI.
    """
    return _create(f"limio://{host}/{resource}", name=name, extra=extra)


def create_limitrail_asset(*, host: str, resource: str, name: str | None = None, extra: dict[str, Any] | None = None) -> Asset:
    """Make the asset of a list of LimitRail's. Parameters and errors as for `create_limio_asset`."""
    return _create(f"limitrail://{host}/{resource}", name=name, extra=extra)


def _create(uri: str, *, name: str | None, extra: dict[str, Any] | None) -> Asset:
    from airflow.sdk import Asset

    # Airflow names an asset as its URI is written: two spellings would be two names.
    one_form = Asset(uri=uri).uri
    return Asset(name=name or one_form, uri=one_form, extra=extra or {})


def convert_to_openlineage(asset: Asset, lineage_context: Any) -> Any:  # noqa: ARG001 - as Airflow calls it
    """Return the dataset of a list for OpenLineage."""
    from urllib.parse import urlsplit

    from airflow.providers.common.compat.openlineage.facet import Dataset

    parts = urlsplit(without_credentials(asset.uri))
    return Dataset(namespace=f"{parts.scheme}://{parts.netloc}", name=parts.path.lstrip("/"))
