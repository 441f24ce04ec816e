# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Whether a warehouse can copy from a bucket: the scheme, and credentials that it can be handed in a statement.

dlt writes whatever the bucket's credentials have into the statement, and ``None`` where they lack it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from limio_limitrail.api.errors import ParameterError

_S3, _GS, _AZ = ("s3",), ("gs",), ("az", "abfss")

_SCHEMES: Mapping[str, tuple[str, ...]] = {
    "athena": _S3,
    "bigquery": _GS,
    "clickhouse": (*_S3, *_AZ),
    "databricks": (*_S3, *_AZ),
    "fabric": _AZ,
    "redshift": _S3,
    "snowflake": (*_S3, *_AZ),
    "synapse": _AZ,
}
"""Where a warehouse copies from; those that are missing copy from nowhere."""

_SAS, _KEY, _PRINCIPAL = "azure_storage_sas_token", "azure_storage_account_key", "azure_client_secret"
_IN_STATEMENT: Mapping[str, tuple[str, ...]] = {
    "clickhouse": (_KEY,),
    "databricks": (_SAS,),
    "fabric": (_SAS,),
    "snowflake": (_SAS,),
    "synapse": (_SAS, _PRINCIPAL),
}
"""What of an Azure connection a warehouse can be handed, one of these."""

_MEANINGS = {_SAS: "an account key or a SAS token", _KEY: "an account key", _PRINCIPAL: "a service principal"}


def check_staging(name: str, *, url: str | None, credentials: Mapping[str, Any] | None) -> None:
    """Check the bucket of a warehouse.

    :param name: the warehouse.
    :param url: the bucket, as dlt has it; None without one.
    :param credentials: the bucket's.
    :raises ParameterError: it needs one, cannot have one, or could not read it.
    """
    schemes = _SCHEMES.get(name, ())
    if url is None:
        if name == "athena":
            raise ParameterError("destination='athena' reads files from a bucket only: set staging='s3://my_conn@bucket/folder'")
        return
    if not schemes:
        raise ParameterError(f"destination={name!r} takes no files from a bucket; leave staging out")
    scheme = urlsplit(url).scheme
    if scheme not in schemes:
        raise ParameterError(f"staging begins with {scheme}://, and destination={name!r} copies from {', '.join(schemes)}")
    needed = _IN_STATEMENT.get(name, ()) if scheme in _AZ else ()
    if needed and not any((credentials or {}).get(field) for field in needed):
        meanings = " or ".join(_MEANINGS[field] for field in needed)
        raise ParameterError(f"destination={name!r} reads staging by {meanings}: put it into the connection of the bucket")
