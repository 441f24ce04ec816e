# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Which pull a saved state belongs to: a retry goes on with it only where all of this is the same."""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from limio_limitrail.api.query import build_query
from limio_limitrail.landing.checkpoint import signature_of
from limio_limitrail.landing.nested_paths import path_parts
from limio_limitrail.transfers.code_digest import UnknownCodeError, code_digest

if TYPE_CHECKING:
    from limio_limitrail.api.resource import Resource
    from limio_limitrail.hooks.protocol import ResourceHook
    from limio_limitrail.landing.parts import PartFormat
    from limio_limitrail.landing.shaping import Shaping
    from limio_limitrail.transfers.base import Job

log = logging.getLogger(__name__)

PARTS_FORMAT = 1
"""Raised where this package would make other parts of the same records: parts of two kinds do not go together."""


def pull_signature(
    job: Job,
    *,
    hook: ResourceHook,
    path_params: Mapping[str, Any] | None,
    query_params: Mapping[str, Any] | None,
    slice_size: timedelta | None,
    detail: bool,
    part_format: PartFormat,
    shaping: Shaping,
) -> str:
    """Return what tells one pull from another.

    Neither what only explains nor how fast the pull goes belongs to it: page size, slices at once, rows a part, retries, and the
    order in which columns and parameters were given. No secret does, so that a rotated one leaves the pull what it is.

    :param path_params: values for the placeholders of the path.
    :param query_params: query parameters.
    :param slice_size: the longest span of time that one request asks for; None where the pull is not cut into slices.
    :param detail: whether each record is fetched by its id.
    :raises ParameterError: the parameters do not fit the resource.
    """
    resource, window = job.resource, job.window
    query = build_query(
        resource, path_params=path_params, query_params=query_params, since=window.since, until=window.asked_until
    )
    time_path = path_parts(shaping.time_path) if shaping.time_path is not None else None
    return signature_of(
        {
            "the API's URLs or client": _digest(hook.source()),
            "run": _digest([job.run.dag_id, job.run.task_id, job.run.run_id, job.run.map_index]),
            "folder": _digest(str(job.folder)),
            "list": _digest([query.path, query.params, detail and resource.detail_path]),
            "paging": _code_of("the paging", _paging(resource)),
            "time range": _digest(
                [_text(window.since), _text(window.until), _text(window.kept_until), slice_size and slice_size.total_seconds()]
            ),
            "columns or part format": _digest(
                [
                    PARTS_FORMAT,
                    part_format,
                    {name: list(path_parts(path)) for name, path in shaping.columns.items()},
                    sorted(shaping.dropped),
                    sorted(shaping.timestamps),
                    [shaping.time_column, time_path],
                ]
            ),
            "transform": _code_of("transform", shaping.transform),
        }
    )


def _paging(resource: Resource) -> list[object]:
    return [resource.paging, resource.records, resource.total]


def _code_of(what: str, value: object) -> str:
    try:
        return code_digest(value)[:16]
    except UnknownCodeError as error:
        log.warning("The code of %s cannot be compared, so that a retry of the task starts the pull over: %s", what, error)
        return uuid.uuid4().hex[:16]


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _text(when: datetime | None) -> str | None:
    return None if when is None else when.astimezone(UTC).isoformat()
