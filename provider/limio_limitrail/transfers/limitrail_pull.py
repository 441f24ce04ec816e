# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What the pulls from LimitRail have that other pulls have not: scopes, and windows with two ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from limio_limitrail.api.time_slices import MOST_AT_ONCE
from limio_limitrail.links.pages import LimitRailConsoleLink
from limio_limitrail.parameters import readers, times
from limio_limitrail.parameters.declared import Parameter, template_fields
from limio_limitrail.transfers.base import ResourcePullOperator

if TYPE_CHECKING:
    from limio_limitrail.hooks.limitrail import LimitRailHook
    from limio_limitrail.parameters.declared import Templated


class LimitRailPull(ResourcePullOperator):
    """Pull from LimitRail. Goes before the operator that says where to.

    LimitRail's runtime lists need both ends of a window in time (LimitRail developer console). Left out, ``since`` and ``until``
    are the data interval's ends.

    :param limitrail_conn_id: the LimitRail connection.
    :param scope: OAuth scopes to ask for besides the connection's, as a list or as a text with spaces.
    :param until: the upper bound in time, which does not belong to the window: a datetime, or an ISO 8601 text. Left out, it is
        the data interval's end, or the time after which the run was due.
    :param window: the longest span of time that one request asks for. A pull goes on after the last finished span.
    :param parallel: how many of these spans are fetched at once, in threads of this one task: at most 16. Needs ``window``. May
        be another number in a retry.
    """

    operator_extra_links = (LimitRailConsoleLink(),)
    parameters: ClassVar[Mapping[str, Parameter]] = {
        **ResourcePullOperator.parameters,
        "limitrail_conn_id": Parameter(readers.text("the id of a connection")),
        "scope": Parameter(readers.scopes),
        "until": Parameter(readers.optional(times.instant)),
        "window": Parameter(readers.optional(times.span(least=timedelta(seconds=1), whole_seconds=True))),
        "parallel": Parameter(readers.whole_number(least=1, most=MOST_AT_ONCE)),
    }
    template_fields: Sequence[str] = template_fields(parameters)

    def __init__(
        self,
        *,
        limitrail_conn_id: Templated[str] = "limitrail_default",
        scope: Templated[Sequence[str]] | None = None,
        until: Templated[datetime] | None = None,
        window: Templated[timedelta] | None = None,
        parallel: Templated[int] = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.limitrail_conn_id: str = limitrail_conn_id
        self.scope: Sequence[str] | None = scope
        self.until: datetime | None = until
        self.window: timedelta | None = window
        self.parallel: int = parallel

    @property
    def api_conn_id(self) -> str:
        return self.limitrail_conn_id

    @cached_property
    def hook(self) -> LimitRailHook:
        """The hook of the LimitRail connection."""
        from limio_limitrail.hooks.limitrail import LimitRailHook

        return LimitRailHook(self.limitrail_conn_id, scope=self.scope)
