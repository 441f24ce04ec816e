# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a task lets be seen of itself while it runs and afterwards: groups in its log, spans, metrics."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

log = logging.getLogger("limio_limitrail.stages")

COUNTED = ("rows", "requests", "retries", "tokens", "committed", "denied", "rejected", "parked", "unknown")
"""Numbers of a task's summary that become metrics of the same name."""


GAUGED = ("left_in_doubt",)
"""Numbers that are a gauge: each run sees the same rows again."""


@contextmanager
def stage(title: str, **attributes: str | int) -> Iterator[None]:
    """Put a stretch of work into a group of the log, which Airflow's pages fold, and into an OpenTelemetry span.

    The span goes nowhere unless Airflow has tracing on.

    :param title: what is done, such as ``pull orders``.
    :param attributes: what the span says besides.
    """
    from opentelemetry import trace

    log.info("::group::%s", title[:1].upper() + title[1:])
    try:
        with trace.get_tracer("limio_limitrail").start_as_current_span(
            f"limio_limitrail.{title.partition(' ')[0]}",
            attributes={f"limio_limitrail.{name}": value for name, value in attributes.items()},
            # What an exception says is in the log, where secrets are masked.
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except BaseException as error:
                span.set_status(trace.StatusCode.ERROR, type(error).__name__)
                raise
    finally:
        log.info("::endgroup::")


def count(summary: Mapping[str, Any], *, api: str, what: str) -> None:
    """Send the numbers of a task's summary to Airflow's metrics, where those are on. A task never fails for that.

    :param api: whose work it was, such as ``limio``.
    :param what: the list or the operation.
    """
    from airflow.sdk.observability.stats import Stats

    tags = {"api": api, "what": what}
    try:
        for name in COUNTED:
            if summary.get(name):
                Stats.incr(f"limio_limitrail.{name}", int(summary[name]), tags=tags)
        for name in GAUGED:
            if name in summary:
                Stats.gauge(f"limio_limitrail.{name}", int(summary[name]), tags=tags)
        for name in ("seconds", "waited"):
            Stats.timing(f"limio_limitrail.{name}", 1000 * float(summary[name]), tags=tags)
    except Exception as error:  # noqa: BLE001 - what was done is done, whoever cannot be told of it
        log.warning("Airflow's metrics were not told of %s (%s).", what, type(error).__name__)
