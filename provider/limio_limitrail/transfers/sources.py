# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The parameters of each API's pulls: the connection, and with LimitRail scopes and slices of time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from limio_limitrail.concurrency import MAX_CONCURRENCY
from limio_limitrail.links.pages import LimioAppLink, LimitRailConsoleLink
from limio_limitrail.parameters import readers, times
from limio_limitrail.parameters.declared import Parameter
from limio_limitrail.transfers.base import ResourcePullOperator

if TYPE_CHECKING:
    from limio_limitrail.hooks.limio import LimioHook
    from limio_limitrail.hooks.limitrail import LimitRailHook


class LimioPullOperator(ResourcePullOperator):
    """Pull from Limio. Comes before the base that says where to.

    :param limio_conn_id: the Limio connection.
    """

    operator_extra_links = (LimioAppLink(),)
    parameters: ClassVar[Mapping[str, Parameter]] = {"limio_conn_id": Parameter(readers.text("the id of a connection"))}

    limio_conn_id: str

    @property
    def api_conn_id(self) -> str:
        return self.limio_conn_id

    @cached_property
    def hook(self) -> LimioHook:
        """The hook of the Limio connection."""
        from limio_limitrail.hooks.limio import LimioHook

        return LimioHook(self.limio_conn_id)


class LimitRailPullOperator(ResourcePullOperator):
    """Pull from LimitRail. Comes before the base that says where to.

    LimitRail's runtime lists need both ends of a time range (LimitRail developer console). Left out, ``since`` and ``until`` are
    the data interval's ends.

    :param limitrail_conn_id: the LimitRail connection.
    :param scope: OAuth scopes to ask for besides the connection's, as a list or as a text with spaces.
    :param until: the upper bound in time, which does not belong to the range: a datetime, or an ISO 8601 text. Left out, it is
        the data interval's end, or the time after which the run was due.
    :param slice_size: the longest span of time that one request asks for. A retry resumes after the last finished slice.
    :param concurrency: how many of these slices are fetched at once, in threads of this one task: at most 16. Needs
        ``slice_size``. May be another number in a retry.
    """

    operator_extra_links = (LimitRailConsoleLink(),)
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "limitrail_conn_id": Parameter(readers.text("the id of a connection")),
        "scope": Parameter(readers.scopes),
        "until": Parameter(readers.optional(times.instant)),
        "slice_size": Parameter(readers.optional(times.span(least=timedelta(seconds=1), whole_seconds=True))),
        "concurrency": Parameter(readers.whole_number(least=1, most=MAX_CONCURRENCY)),
    }

    limitrail_conn_id: str
    scope: Sequence[str] | None
    until: datetime | None
    slice_size: timedelta | None
    concurrency: int

    @property
    def api_conn_id(self) -> str:
        return self.limitrail_conn_id

    @cached_property
    def hook(self) -> LimitRailHook:
        """The hook of the LimitRail connection."""
        from limio_limitrail.hooks.limitrail import LimitRailHook

        return LimitRailHook(self.limitrail_conn_id, scope=self.scope)
