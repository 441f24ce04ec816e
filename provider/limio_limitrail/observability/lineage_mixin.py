# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What lets an operator tell OpenLineage of what it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limio_limitrail.observability.lineage import Flow


class LineageMixin:
    """Part of an operator that notes what flows while it runs. A task never fails for that."""

    log: Any
    _flow: Flow | None = None

    def note_flow(self, make: Callable[[], Flow]) -> None:
        """Note what flows from where to where, where OpenLineage is set up.

        :param make: finds it out; it may look connections up.
        """
        from limio_limitrail.observability.lineage import is_lineage_wanted

        try:
            self._flow = make() if is_lineage_wanted() else None
        except Exception as error:  # noqa: BLE001 - see above
            self.log.warning("OpenLineage is told nothing of this task (%s).", type(error).__name__)

    def note_flowed(self, **what: Any) -> None:
        """Note what came of it: fields of `Flow`."""
        if self._flow is not None:
            self._flow = replace(self._flow, **what)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:  # noqa: ARG002 - as OpenLineage's provider calls it
        """Tell OpenLineage what the task has read and left; after a failure, what it knew of it by then."""
        from limio_limitrail.observability.lineage import as_openlineage

        return None if self._flow is None else as_openlineage(self._flow)
