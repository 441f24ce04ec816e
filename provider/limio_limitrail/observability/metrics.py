# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Log groups, OpenTelemetry spans and metrics of a task."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

log = logging.getLogger(__name__)

COUNTERS = (
    "rows", "requests", "retries", "tokens", "committed", "denied", "rejected", "parked", "unknown", "settled", "stale",
    "contradicted",
)  # fmt: skip
"""Numbers of a task's summary that become metrics of the same name."""

TIMINGS = ("seconds", "waited")

GAUGES = ("left_in_doubt",)
"""Numbers that are a gauge: each run sees the same rows again."""


@contextmanager
def log_group(title: str, **attributes: str | int) -> Iterator[None]:
    """Put the log of some work into a group, which Airflow's pages fold, and the work into an OpenTelemetry span.

    The span goes nowhere unless Airflow has tracing on.

    :param title: the work, such as ``pull orders``.
    :param attributes: the span's attributes.
    """
    from opentelemetry import trace

    log.info("::group::%s", title[:1].upper() + title[1:])
    try:
        with trace.get_tracer("limio_limitrail").start_as_current_span(
            f"limio_limitrail.{title.partition(' ')[0]}",
            attributes={f"limio_limitrail.{name}": value for name, value in attributes.items()},
            # The text of an exception is in the log, where secrets are masked.
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


def send_metrics(summary: Mapping[str, Any], *, api: str, what: str) -> None:
    """Send the numbers of a task's summary to Airflow's metrics, if those are on. A task never fails because of it.

    :param api: the API, such as ``limio``.
    :param what: the list or the operation.
    """
    from airflow.sdk.observability.stats import Stats

    tags = {"api": api, "what": what}
    try:
        for name in COUNTERS:
            if summary.get(name):
                Stats.incr(f"limio_limitrail.{name}", int(summary[name]), tags=tags)
        for name in GAUGES:
            if name in summary:
                Stats.gauge(f"limio_limitrail.{name}", int(summary[name]), tags=tags)
        if "status" in summary:
            Stats.gauge("limio_limitrail.degraded", int(summary["status"] == "degraded"), tags=tags)
            for warning in summary["warnings"]:
                Stats.incr("limio_limitrail.warnings", 1, tags={**tags, "warning": warning["name"]})
        for name in TIMINGS:
            if name in summary:
                Stats.timing(f"limio_limitrail.{name}", 1000 * float(summary[name]), tags=tags)
    except Exception as error:  # noqa: BLE001 - the work is done, whether it is counted or not
        log.warning("Airflow's metrics of %s could not be sent (%s).", what, type(error).__name__)
