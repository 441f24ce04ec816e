# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Groups in the log, spans, and metrics."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from limio_limitrail.observability.metrics import log_group, send_metrics

SUMMARY = {"resource": "orders", "rows": 7, "requests": 2, "retries": 0, "tokens": 1, "seconds": 1.5, "waited": 0.25}


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    return exporter


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[float, dict[str, str]]]:
    from airflow.sdk.observability.stats import Stats

    found: dict[str, tuple[float, dict[str, str]]] = {}

    def note(name: str, value: Any = 1, *, tags: dict[str, str]) -> None:
        found[name] = (value, tags)

    monkeypatch.setattr(Stats, "incr", note)
    monkeypatch.setattr(Stats, "timing", note)
    monkeypatch.setattr(Stats, "gauge", note)
    return found


def test_a_log_group_is_a_group_and_a_span(spans, caplog):
    with caplog.at_level(logging.INFO), log_group("pull orders", resource="orders"):
        logging.getLogger("between").info("something")
    assert [record.getMessage() for record in caplog.records] == ["::group::Pull orders", "something", "::endgroup::"]
    [span] = spans.get_finished_spans()
    assert span.name == "limio_limitrail.pull"
    assert dict(span.attributes or {}) == {"limio_limitrail.resource": "orders"}


def test_a_log_group_that_fails_is_closed_and_its_span_quotes_nobody(spans, caplog):
    with caplog.at_level(logging.INFO), pytest.raises(ValueError, match="a secret"), log_group("load into orders"):
        raise ValueError("a secret")
    assert caplog.records[-1].getMessage() == "::endgroup::"
    [span] = spans.get_finished_spans()
    assert (span.status.is_ok, span.status.description) == (False, "ValueError")
    assert not span.events


def test_numbers_become_metrics(metrics):
    send_metrics(SUMMARY, api="limio", what="orders")
    tags = {"api": "limio", "what": "orders"}
    assert metrics == {
        "limio_limitrail.rows": (7, tags),
        "limio_limitrail.requests": (2, tags),
        "limio_limitrail.tokens": (1, tags),
        "limio_limitrail.seconds": (1500.0, tags),
        "limio_limitrail.waited": (250.0, tags),
    }


def test_metrics_that_fail_fail_no_task(monkeypatch, caplog):
    from airflow.sdk.observability.stats import Stats

    def fails(*_: Any, **__: Any) -> None:
        raise OSError

    monkeypatch.setattr(Stats, "incr", fails)
    send_metrics(SUMMARY, api="limio", what="orders")
    assert "Airflow's metrics of orders could not be sent (OSError)." in caplog.text


def test_where_metrics_are_off_nothing_happens():
    send_metrics(SUMMARY, api="limio", what="orders")


@pytest.mark.parametrize("left", [0, 7])
def test_rows_left_in_doubt_are_a_gauge_that_goes_back_to_zero(metrics, left):
    send_metrics({"rows": 1, "left_in_doubt": left, "seconds": 1, "waited": 0}, api="limitrail", what="usage.commit")
    assert metrics["limio_limitrail.left_in_doubt"] == (left, {"api": "limitrail", "what": "usage.commit"})


@pytest.mark.parametrize(("status", "degraded"), [("ok", 0), ("degraded", 1), ("failed", 0)])
def test_a_degraded_task_is_a_gauge_and_each_warning_counts(metrics, status, degraded):
    warnings = [{"name": "denied"}] if degraded else []
    summary = {"rows": 1, "status": status, "warnings": warnings, "seconds": 1, "waited": 0}
    send_metrics(summary, api="limitrail", what="usage.commit")
    tags = {"api": "limitrail", "what": "usage.commit"}
    assert metrics["limio_limitrail.degraded"] == (degraded, tags)
    assert metrics.get("limio_limitrail.warnings") == ((1, {**tags, "warning": "denied"}) if degraded else None)
