# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Conditions to wait for: an object that exists or has a status, a list with matching records.

Each is polled by a sensor, or stored as JSON in Airflow's metadata database and polled by a trigger.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import msgspec

from limio_limitrail.api.details import check_identity
from limio_limitrail.api.errors import CursorRefusedError, NotFoundError, ParameterError, ProtocolError
from limio_limitrail.api.json_body import read_record, value_of
from limio_limitrail.api.list_reader import ListReader
from limio_limitrail.api.page import decode_page
from limio_limitrail.api.query import EARLIEST, build_query, texts_of
from limio_limitrail.api.redact import holds_secret, safe_text
from limio_limitrail.api.request_context import RequestContext
from limio_limitrail.api.resource import fill_path, resource_from_json, resource_to_json
from limio_limitrail.bare_errors import raises_bare
from limio_limitrail.parameters.references import import_function
from limio_limitrail.parameters.times import from_iso
from limio_limitrail.polling.poll import NO_RETRIES, PollResult, PollStatus

if TYPE_CHECKING:
    from limio_limitrail.api.client import ApiClient
    from limio_limitrail.api.resource import Resource

T = TypeVar("T")
Predicate: TypeAlias = Callable[[Mapping[str, Any]], bool]

MAX_IDS = 100
"""Ids of matching records that go to XCom; all are counted."""

OBJECT_PATH = "/objects/{service}/{path_type}/{id}"
"""One object (Limio documentation, "Get Objects")."""


class PredicateError(Exception):
    """A predicate failed on a record. Its own text is left out: it may quote the record, and this goes to Airflow's database."""

    @classmethod
    def of(cls, error: type[Exception], *, identity: str) -> PredicateError:
        """Make it of the class of another error."""
        return cls(f"{error.__name__} on record {identity!r}")


class Missing(StrEnum):
    """What a 404 means: wait for the object, or fail."""

    WAIT = "wait"
    FAIL = "fail"


@dataclass(frozen=True, kw_only=True)
class ObjectCondition:
    """An object of Limio's exists, or has a status.

    :param path_type: the kind of object, such as ``orders`` or ``process``.
    :param target_statuses: the statuses that end the wait; empty if it is enough that the object exists.
    :param failed_statuses: the statuses from which no target status can be reached any more.
    :raises ParameterError: a status is both, or there are failed statuses without any that end the wait.
    """

    path_type: str
    object_id: str
    target_statuses: tuple[str, ...] = ()
    failed_statuses: tuple[str, ...] = ()
    missing: Missing = Missing.WAIT
    service: str = "limio"

    def __post_init__(self) -> None:
        if both := _folded(self.target_statuses) & _folded(self.failed_statuses):
            raise ParameterError(f"{', '.join(sorted(both))} cannot be among target_statuses and failed_statuses at once")
        if self.failed_statuses and not self.target_statuses:
            raise ParameterError("failed_statuses= says what ends the wait badly; say with target_statuses= what ends it well")

    def __str__(self) -> str:
        statuses = f" to be {' or '.join(self.target_statuses)}" if self.target_statuses else " to exist"
        return f"{self.path_type}/{self.object_id}{statuses}"

    @raises_bare
    def poll(self, client: ApiClient) -> PollResult:
        """Ask for the object once.

        :raises ApiError: the request failed, or the response is not an object.
        """
        path = fill_path(
            OBJECT_PATH,
            {"service": self.service, "path_type": self.path_type, "id": self.object_id},
            resource=self.path_type,
        )
        try:
            answer = client.send(path=path, resource=self.path_type, limits=NO_RETRIES)
        except NotFoundError:
            if self.missing is Missing.FAIL:
                raise
            return PollResult(status=PollStatus.NOT_YET, summary="it does not exist")

        def broken(reason: str) -> ProtocolError:
            return ProtocolError(
                RequestContext(
                    api=client.api, resource=self.path_type, method="GET", path=path, status=answer.status, reason=reason
                )
            )

        record, members = read_record(answer, broken=broken, unique=("id", "status"))
        if not _is_named(members, self.object_id):
            check_identity(record, requested=self.object_id, broken=broken)
        found = _status_in(members)
        status = safe_text(found)
        result = {"path_type": self.path_type, "id": self.object_id, "status": status}
        summary = "it has no status" if status is None else f"its status is {status!r}"
        # As it came: what is shown may be masked or shortened.
        folded = found.strip().casefold()
        if not self.target_statuses or folded in _folded(self.target_statuses):
            return PollResult(status=PollStatus.FOUND, summary=summary, result=result)
        if folded in _folded(self.failed_statuses):
            return PollResult(status=PollStatus.FAILED, summary=summary, result=result)
        return PollResult(status=PollStatus.NOT_YET, summary=summary)


def _is_named(members: Mapping[str, msgspec.Raw], name: str) -> bool:
    """Return whether a text of an object is what it was asked for by.

    Limio documents requests by ``id``. It may accept a ``name`` or a ``reference`` as well, and then answers with another id.
    """
    return any(bytes(raw).startswith(b'"') and value_of(raw) == name for raw in members.values())


def _folded(statuses: tuple[str, ...]) -> set[str]:
    return {status.strip().casefold() for status in statuses}


def _status_in(members: Mapping[str, msgspec.Raw]) -> str:
    """Return an object's status as a text: a number as it is written, and an empty one where there is none."""
    raw = bytes(members.get("status", b""))
    found = value_of(raw)
    if isinstance(found, int | float) and not isinstance(found, bool):
        return raw.decode()
    return found if isinstance(found, str) else ""


@dataclass(frozen=True, kw_only=True)
class RecordsCondition:
    """A list has matching records.

    :param since: the lower bound in time, for lists that filter by it.
    :param until: the upper bound, for lists whose filter has one.
    :param predicate: whether a record matches; without it, each one does.
    :raises ParameterError: nothing is waited for.
    """

    resource: Resource
    path_params: Mapping[str, str] = field(default_factory=dict)
    query_params: Mapping[str, str] = field(default_factory=dict)
    since: datetime | None = None
    until: datetime | None = None
    min_records: int = 1
    page_size: int = 100
    predicate: Predicate | None = None

    def __post_init__(self) -> None:
        if self.min_records < 1:
            raise ParameterError(f"min_records={self.min_records} would be found at once; wait for at least 1")

    def __str__(self) -> str:
        some = "a record" if self.min_records == 1 else f"{self.min_records} records"
        return f"{some} of {self.resource.name}{' that match' if self.predicate else ''}"

    def poll(self, client: ApiClient) -> PollResult:
        """Read the list until enough records match.

        :raises ApiError: a request failed, or a response breaks the contract.
        """
        path, params = build_query(
            self.resource, path_params=self.path_params, query_params=self.query_params, since=self.since, until=self.until
        )
        reader = list_reader(client, resource=self.resource, path=path, params=params, page_size=self.page_size)
        return read_list(reader, self._count)

    def _count(self, reader: ListReader) -> PollResult:
        api = reader.client.api
        total = count = 0
        # A list that gains records while it is read shows some of them again, on a later page.
        counted: set[str] = set()
        ids: list[str] = []
        watermark: str | None = None
        for page in reader.pages():
            for record in decode_page(page, api=api, resource=self.resource.name):
                total += 1
                if self.predicate is not None and not self.predicate(record):
                    continue
                when = time_of(record, resource=self.resource)
                version = _version_of(record, when=when, resource=self.resource)
                if version in counted:
                    continue
                if version is not None:
                    counted.add(version)
                count += 1
                if len(ids) < MAX_IDS:
                    ids.append(identity_of(record, api=api, resource=self.resource))
                watermark = max(watermark, when, key=_newness)
            if count >= self.min_records:
                break
        summary = f"{count} of {total} records match" if self.predicate else f"there are {count} records"
        if count < self.min_records:
            return PollResult(status=PollStatus.NOT_YET, summary=summary)
        result = {"resource": self.resource.name, "count": count, "ids": ids, "watermark": safe_text(watermark)}
        return PollResult(status=PollStatus.FOUND, summary=summary, result=result)


Condition: TypeAlias = ObjectCondition | RecordsCondition


def list_reader(client: ApiClient, *, resource: Resource, path: str, params: Mapping[str, str], page_size: int) -> ListReader:
    """Return the reader of one poll: it sends each request once."""
    return ListReader(
        client=client,
        resource=resource,
        path=path,
        params=params,
        page_size=min(page_size, resource.max_page_size or page_size),
        limits=NO_RETRIES,
    )


def read_list(reader: ListReader, read: Callable[[ListReader], T]) -> T:
    """Return what a function makes of a list; the list is read from its start again if pages in its middle had to become smaller.

    :raises ApiError: as `ListReader.pages`.
    """
    while True:
        size = reader.page_size
        try:
            return read(reader)
        except CursorRefusedError:
            if reader.page_size == size:
                raise
            reader = replace(reader, records_read=0, total=None)


def identity_of(record: Mapping[str, Any], *, api: str, resource: Resource) -> str:
    """Return a record's primary key as a short text.

    :raises ProtocolError: it repeats a credential.
    """
    identity = "/".join(_key_text(record.get(name)) for name in resource.primary_key)
    if holds_secret(identity):
        reason = "the key of a record repeats a credential, and is neither stored nor shown"
        raise ProtocolError(RequestContext(api=api, resource=resource.name, reason=reason))
    return identity[:200]


def _key_text(value: object) -> str:
    try:
        return str(value)
    except RecursionError:  # an id that is an object, nested as deeply as a decoder goes
        return "…"


def time_of(record: Mapping[str, Any], *, resource: Resource) -> str | None:
    """Return the text that says when a record last changed, if it has one."""
    if resource.time_column is None:
        return None
    value: Any = record
    for name in str(resource.columns.get(resource.time_column, resource.time_column)).split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value[:40] if isinstance(value, str) else None


def parse_time(text: str | None) -> datetime | None:
    """Return the time in a text, in UTC; None if it is none. What names no zone is in UTC."""
    if text is None:
        return None
    try:
        # RFC 3339 allows small letters, which Python does not read.
        when = from_iso(text.upper())
        return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _newness(text: str | None) -> tuple[int, datetime, str]:
    """Return what sorts texts as the times that they are, whatever their zones and fractions; what is no time comes before."""
    when = parse_time(text)
    return 0 if text is None else 1 if when is None else 2, when or EARLIEST, text or ""


def _version_of(record: Mapping[str, Any], *, when: str | None, resource: Resource) -> str | None:
    """Return what identifies a version of a record: its key and its time. None for a record that lacks a part of its key."""
    key = [record.get(name) for name in resource.primary_key]
    if not key or any(value in (None, "") for value in key):
        return None
    try:
        return json.dumps([*key, when])
    except RecursionError:  # as in _key_text
        return None


def with_quiet_predicate(condition: Condition, *, api: str) -> Condition:
    """Return a condition whose predicate fails with a `PredicateError` alone."""
    if not isinstance(condition, RecordsCondition) or condition.predicate is None:
        return condition
    predicate, resource = condition.predicate, condition.resource

    def quiet(record: Mapping[str, Any]) -> bool:
        try:
            return predicate(record)
        except Exception as error:  # noqa: BLE001 - a predicate is the user's own code
            failed = type(error)
        raise PredicateError.of(failed, identity=identity_of(record, api=api, resource=resource))

    return replace(condition, predicate=quiet)


def find_predicate(path: str) -> Predicate:
    """Import a predicate by its path, such as ``my_package.my_module.my_function``.

    :raises ParameterError: it cannot be imported.
    """
    return import_function("predicate", path)


# -- as JSON, which a trigger of another process of this version reads -------------------------------------------------


def condition_to_json(condition: Condition, *, predicate: str | None = None) -> dict[str, Any]:
    """Serialize a condition.

    :param predicate: the import path of its predicate.
    :raises ParameterError: it cannot be serialized.
    """
    match condition:
        case ObjectCondition():
            return {"kind": "object", **msgspec.json.decode(msgspec.json.encode(condition))}
        case RecordsCondition():
            return {
                "kind": "records",
                "resource": resource_to_json(condition.resource),
                "path_params": texts_of(condition.path_params),
                "query_params": texts_of(condition.query_params),
                "since": condition.since.isoformat() if condition.since else None,
                "until": condition.until.isoformat() if condition.until else None,
                "min_records": condition.min_records,
                "page_size": condition.page_size,
                "predicate": predicate,
            }
    raise ParameterError(f"a {type(condition).__name__} cannot be handed to a triggerer")


def condition_from_json(data: dict[str, Any]) -> Condition:
    """Deserialize a condition, and import its predicate.

    :raises ParameterError: it cannot be read.
    """
    try:
        match data["kind"]:
            case "object":
                return msgspec.convert({one.name: data[one.name] for one in fields(ObjectCondition)}, ObjectCondition)
            case "records":
                return RecordsCondition(
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
    except (KeyError, TypeError, AttributeError, ValueError, msgspec.ValidationError) as error:
        raise ParameterError(f"what the trigger waits for cannot be read ({type(error).__name__}: {error})") from None
    raise ParameterError(f"what the trigger waits for is of a kind that this version does not know: {str(data['kind'])[:40]!r}")
