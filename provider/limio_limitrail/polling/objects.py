# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Wait for one object of Limio's to exist, or to reach a status."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from limio_limitrail.api.body_errors import read_record
from limio_limitrail.api.errors import NotFoundError, ParameterError, ProtocolError, RequestContext
from limio_limitrail.api.redact import safe_text
from limio_limitrail.api.resource import fill_path
from limio_limitrail.bare_errors import raises_bare
from limio_limitrail.polling.poll import ONE_TRY, PollResult, PollStatus

if TYPE_CHECKING:
    from limio_limitrail.api.client import ApiClient

OBJECT_PATH = "/objects/{service}/{path_type}/{id}"
"""One object (Limio documentation, "Get Objects")."""


class Missing(StrEnum):
    """What an object that is not there means."""

    WAIT = "wait"
    """It may come."""
    FAIL = "fail"
    """It will not."""


@dataclass(frozen=True, kw_only=True)
class ObjectWait:
    """Wait for an object.

    :param path_type: the kind of object, such as ``orders`` or ``process``.
    :param object_id: its id.
    :param target_statuses: the statuses that end the wait; none where it is enough that the object is there.
    :param failed_statuses: the statuses that cannot turn into one of those any more.
    :param missing: what a 404 means.
    :param service: whose object it is.
    """

    path_type: str
    object_id: str
    target_statuses: tuple[str, ...] = ()
    failed_statuses: tuple[str, ...] = ()
    missing: Missing = Missing.WAIT
    service: str = "limio"

    def __post_init__(self) -> None:
        """Refuse what can never be decided.

        :raises ParameterError: a status is both, or statuses that fail come without any that end the wait.
        """
        both = {status.casefold() for status in self.target_statuses} & {status.casefold() for status in self.failed_statuses}
        if both:
            raise ParameterError(f"{', '.join(sorted(both))} cannot be among target_statuses and failed_statuses at once")
        if self.failed_statuses and not self.target_statuses:
            raise ParameterError("failed_statuses= says what ends the wait badly; say with target_statuses= what ends it well")

    def __str__(self) -> str:
        """Name what is waited for."""
        statuses = f" to be {' or '.join(self.target_statuses)}" if self.target_statuses else " to be there"
        return f"{self.path_type}/{self.object_id}{statuses}"

    @raises_bare
    def look(self, client: ApiClient) -> PollResult:
        """Look once.

        :raises ApiError: the request failed, or the answer is no object.
        """
        path = fill_path(
            OBJECT_PATH,
            {"service": self.service, "path_type": self.path_type, "id": self.object_id},
            resource=self.path_type,
        )
        try:
            answer = client.send(path=path, resource=self.path_type, limits=ONE_TRY)
        except NotFoundError:
            if self.missing is Missing.FAIL:
                raise
            return PollResult(standing=PollStatus.NOT_YET, what="it is not there")

        def broken(reason: str) -> ProtocolError:
            return ProtocolError(
                RequestContext(
                    api=client.api, resource=self.path_type, method="GET", path=path, status=answer.status, reason=reason
                )
            )

        _, members = read_record(answer, broken=broken)
        try:
            found = msgspec.json.decode(members["status"])
        except (KeyError, msgspec.DecodeError, RecursionError):
            found = None
        status = safe_text(found)
        result = {"path_type": self.path_type, "id": self.object_id, "status": status}
        shown = "it has no status" if status is None else f"its status is {status!r}"
        folded = (status or "").casefold()
        if not self.target_statuses or folded in {target.casefold() for target in self.target_statuses}:
            return PollResult(standing=PollStatus.FOUND, what=shown, result=result)
        if folded in {failed.casefold() for failed in self.failed_statuses}:
            return PollResult(standing=PollStatus.FAILED, what=shown, result=result)
        return PollResult(standing=PollStatus.NOT_YET, what=shown)
