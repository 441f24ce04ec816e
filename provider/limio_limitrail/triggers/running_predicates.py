# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Whose predicate is running: where a look never ends, the watch whose predicate hangs is left out of the next ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limio_limitrail.polling.watch_filter import WatchFilter
    from limio_limitrail.triggers.watch import Watcher


class Running:
    """One look's predicates."""

    def __init__(self) -> None:
        self.of: Watcher | None = None
        """Whose predicate is running now; None where none is."""

    def noting(self, watcher: Watcher, eye: WatchFilter) -> WatchFilter:
        """Return an eye whose predicate is noted here while it runs."""
        predicate = eye.predicate
        if predicate is None:
            return eye

        def noted(record: Mapping[str, Any]) -> bool:
            self.of = watcher
            try:
                return predicate(record)
            finally:
                self.of = None

        return replace(eye, predicate=noted)
