# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The catalog that knows which files an Iceberg table has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limio_limitrail.landing.sql.model import LandingError


def open_catalog(properties: Mapping[str, Any], *, credentials: Any) -> Any:
    """Open a catalog; pyiceberg reads no file and no environment for it.

    :param properties: pyiceberg's, with ``name`` and ``type``, which is ``sql`` or ``rest``.
    :param credentials: dlt's, of the bucket.
    """
    from dlt.common.configuration.specs.mixins import WithPyicebergConfig

    given = dict(properties)
    name, kind = given.pop("name"), given.pop("type")
    of_bucket = credentials.to_pyiceberg_fileio_config() if isinstance(credentials, WithPyicebergConfig) else {}
    options = {**{key: value for key, value in of_bucket.items() if value is not None}, **given}
    if kind == "rest":
        from pyiceberg.catalog.rest import RestCatalog

        return RestCatalog(name, **options)
    from pyiceberg.catalog.sql import SqlCatalog

    if "s3.access-key-id" in options and not options.get("s3.region"):
        raise LandingError("the bucket's connection has no region_name: without it, pyiceberg would ask Amazon for it")
    return SqlCatalog(name, **options)
