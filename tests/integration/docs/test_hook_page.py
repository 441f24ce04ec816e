# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A snippet of docs/how-to/hook.md: an endpoint of LimitRail that has pages."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from limio_limitrail.api.pagination import CursorString
from limio_limitrail.api.resource import Resource, TimeFilter
from limio_limitrail.emulator import EmulatorServer

# [START own_pages]
USAGE_IN_PAGES = Resource(
    name="usage_in_pages",
    path="/v1/usage",
    paging=CursorString(page_size_param="limit", cursor_param="cursor", cursor_member="nextCursor"),
    time_column="committedAt",
    timestamps=("committedAt",),
    time_filter=TimeFilter(since="from", until="to", field="committedAt", required=True),
)
# [END own_pages]
DAY = datetime(2026, 3, 1, tzinfo=UTC)


def test_a_list_of_ones_own_is_read_page_by_page(limitrail_emulator: EmulatorServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from limio_limitrail.hooks.limitrail import LimitRailHook

    limitrail_emulator.configure_limitrail(page_size=5)
    limitrail_emulator.limitrail.add_usage(
        [{"id": str(hour), "committedAt": (DAY + timedelta(hours=hour)).isoformat()} for hour in range(12)]
    )
    monkeypatch.setenv("AIRFLOW_CONN_LIMITRAIL_DEFAULT", limitrail_emulator.limitrail_connection_json())
    found = LimitRailHook().iter_records(USAGE_IN_PAGES, since=DAY, until=DAY + timedelta(days=1), page_size=5)
    assert [row["id"] for row in found] == [str(hour) for hour in range(12)]
    asked = [entry for entry in limitrail_emulator.counters.log if entry["path"] == "/v1/usage"]
    assert len(asked) == 3
