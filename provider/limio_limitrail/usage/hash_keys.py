# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What keys the hashes of members that the ledger keeps: the tenant, and the secret of a connection if there is one."""

from __future__ import annotations

import hashlib
import hmac

from limio_limitrail.api.secret import Secret
from limio_limitrail.usage.ledger.kept_members import HashKey

_ID = 12


def hash_key(tenant: str, *, secret: Secret | None = None) -> HashKey:
    """Return the key for a tenant.

    :param secret: the password of ``mask_conn_id``; None: anybody who knows the tenant can make the hashes.
    """
    if secret is None:
        return HashKey(salt=tenant)
    key = hashlib.sha256(secret.reveal().encode("utf-8", "surrogatepass")).digest()
    parts = (hmac.new(key, f"{use}\n{tenant}".encode("utf-8", "surrogatepass"), hashlib.sha256) for use in ("salt", "id"))
    salt, secret_id = (part.hexdigest() for part in parts)
    return HashKey(salt=salt, secret_id=secret_id[:_ID])
