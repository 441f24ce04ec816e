# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What is kept of a record that was seen: enough to know it again, and nothing that is anybody's business."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from limio_limitrail.polling.conditions import identity_of, time_of

if TYPE_CHECKING:
    from limio_limitrail.api.resource import Resource


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordFingerprint:
    """A record, seen once.

    :param identity: its primary key, as a short text.
    :param digest: what changes when the record does: of its key and its time, or of all of it where it has no time.
    :param when: when it last changed, where it says so.
    """

    identity: str
    digest: int
    when: datetime | None


def fingerprint_of(record: Mapping[str, Any], *, api: str, resource: Resource) -> RecordFingerprint:
    """See a record.

    :raises ProtocolError: its key repeats a credential.
    """
    text = time_of(record, resource=resource)
    when = _instant(text)
    key = [record.get(name) for name in resource.primary_key]
    # Two records that lack their key would look the same where they are of the same second.
    is_known_by_key = when is not None and key and not any(value in (None, "") for value in key)
    known = json.dumps([*key, text] if is_known_by_key else record, sort_keys=True, ensure_ascii=True, default=str)
    digest = hashlib.blake2b(known.encode("ascii"), digest_size=8).digest()
    return RecordFingerprint(
        identity=identity_of(record, api=api, resource=resource), digest=int.from_bytes(digest, "big"), when=when
    )


def _instant(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        when = datetime.fromisoformat(text)
        return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
