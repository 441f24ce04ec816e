# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The identity of a pull: a retry resumes from a checkpoint only if all of it is the same."""

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
    from limio_limitrail.hooks.base import ApiHook
    from limio_limitrail.landing.child_lists import ChildList
    from limio_limitrail.landing.parts import PartFormat
    from limio_limitrail.landing.shaping import Shaping
    from limio_limitrail.transfers.base import PullPlan

log = logging.getLogger(__name__)

PARTS_FORMAT = 2
"""Increased when this package begins to make different parts of the same records, which must not be mixed."""


def pull_signature(
    plan: PullPlan,
    *,
    hook: ApiHook,
    path_params: Mapping[str, Any] | None,
    query_params: Mapping[str, Any] | None,
    slice_size: timedelta | None,
    detail: bool,
    part_format: PartFormat,
    shaping: Shaping,
) -> str:
    """Return the signature that identifies a pull and what it makes of the records.

    It ignores whatever does not change the records: page size, concurrency, rows a part, retries, and the order in which columns
    and parameters are given. It ignores the secrets of the API, so that a pull stays the same when they are rotated. The secret
    of the masks counts, because a part has values that it made.

    :param path_params: values for the placeholders of the path.
    :param query_params: query parameters.
    :param slice_size: the longest time range of one request; None if the pull is not sliced.
    :param detail: whether each record is fetched by its id.
    :raises ParameterError: the parameters do not fit the resource.
    """
    resource, time_range = plan.resource, plan.time_range
    path, params = build_query(
        resource, path_params=path_params, query_params=query_params, since=time_range.since, until=time_range.asked_until
    )
    time_path = path_parts(shaping.time_path) if shaping.time_path is not None else None
    return signature_of(
        {
            "the API's URLs or client": _digest(hook.source()),
            "run": _digest([plan.run.dag_id, plan.run.task_id, plan.run.run_id, plan.run.map_index]),
            "folder": _digest(str(plan.folder)),
            "list": _digest([path, params, detail and resource.detail_path]),
            "paging": _code_of("the paging", _paging(resource)),
            "time range": _digest(
                [
                    _text(time_range.since),
                    _text(time_range.until),
                    _text(time_range.kept_until),
                    slice_size and slice_size.total_seconds(),
                ]
            ),
            "columns or part format": _digest(
                [
                    PARTS_FORMAT,
                    part_format,
                    {name: list(path_parts(path)) for name, path in shaping.nested_columns.items()},
                    sorted(shaping.dropped),
                    sorted(shaping.timestamps),
                    [shaping.time_column, time_path],
                ]
            ),
            "transform": _code_of("transform", shaping.transform),
            # Its rows are checked against the key, part by part.
            **({"primary_key": _digest(shaping.key)} if shaping.transform is not None and shaping.key else {}),
            **({} if plan.masks is None else {"mask or its key": plan.masks.signature()}),
            **({"child tables": _digest([_described(child) for child in shaping.children])} if shaping.children else {}),
        }
    )


def _described(child: ChildList) -> list[object]:
    inner = [_described(one) for one in child.children]
    return [child.table, path_parts(child.path), child.parent_key, child.key, inner]


def _paging(resource: Resource) -> list[object]:
    return [resource.paging, resource.records, resource.total]


def _code_of(what: str, value: object) -> str:
    try:
        return code_digest(value)[:16]
    except UnknownCodeError as error:
        log.warning("The code of %s cannot be compared, so a retry of the task starts the pull over: %s", what, error)
        return uuid.uuid4().hex[:16]


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _text(when: datetime | None) -> str | None:
    return None if when is None else when.astimezone(UTC).isoformat()
