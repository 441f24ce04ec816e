# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Waits as plain JSON: what a trigger is made of, kept in Airflow's metadata database.

Its form is a contract between versions: a trigger that one version has made may be run by the next.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.api.query import texts_of
from limio_limitrail.api.serialization import resource_from_json, resource_to_json
from limio_limitrail.polling.conditions import RecordsWait, find_predicate
from limio_limitrail.polling.objects import Missing, ObjectWait
from limio_limitrail.polling.poll import Wait


def wait_to_json(wait: Wait, *, predicate: str | None = None) -> dict[str, Any]:
    """Write a wait.

    :param predicate: the import path of a wait's predicate.
    :raises ParameterError: it cannot be written.
    """
    match wait:
        case ObjectWait():
            listed = {name: list(value) if isinstance(value, tuple) else str(value) for name, value in asdict(wait).items()}
            return {"kind": "object", **listed}
        case RecordsWait():
            return {
                "kind": "records",
                "resource": resource_to_json(wait.resource),
                "path_params": texts_of(wait.path_params),
                "query_params": texts_of(wait.query_params),
                "since": wait.since.isoformat() if wait.since else None,
                "until": wait.until.isoformat() if wait.until else None,
                "min_records": wait.min_records,
                "page_size": wait.page_size,
                "predicate": predicate,
            }
    raise ParameterError(f"a {type(wait).__name__} cannot be handed to a triggerer")


def wait_from_json(data: dict[str, Any]) -> Wait:
    """Read a wait.

    :raises ParameterError: it is none.
    """
    try:
        match data["kind"]:
            case "object":
                return ObjectWait(
                    path_type=data["path_type"],
                    object_id=data["object_id"],
                    target_statuses=tuple(data["target_statuses"]),
                    failed_statuses=tuple(data["failed_statuses"]),
                    missing=Missing(data["missing"]),
                    service=data["service"],
                )
            case "records":
                return RecordsWait(
                    resource=resource_from_json(data["resource"]),
                    path_params=data["path_params"],
                    query_params=data["query_params"],
                    since=datetime.fromisoformat(data["since"]) if data["since"] else None,
                    until=datetime.fromisoformat(data["until"]) if data["until"] else None,
                    min_records=data["min_records"],
                    page_size=data["page_size"],
                    predicate=find_predicate(data["predicate"]) if data["predicate"] else None,
                )
    except ParameterError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ParameterError(f"what the trigger waits for cannot be read ({type(error).__name__}: {error})") from None
    raise ParameterError(f"what the trigger waits for is of a kind that this version does not know: {str(data['kind'])[:40]!r}")
