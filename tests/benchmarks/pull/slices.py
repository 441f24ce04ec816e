# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Pull a window slice by slice, one and several at once, beside a bare loop: ``slices.py --slices 24 --json out.json``.

The bare loop fetches the same pages with urllib3, as many slices at once, and throws them away. The list is served by another
process of this machine; the figures are medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import urllib3

HERE = Path(__file__).resolve().parent
START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
PATH = "/v1/sliced"


class Envelope(msgspec.Struct):
    items: msgspec.Raw
    queryMore: str  # noqa: N815 - the API's name


def bare(url: str, *, slices: int, page: int, parallel: int) -> int:
    """Fetch every page and throw it away; give how many there were."""
    pool = urllib3.PoolManager(maxsize=parallel)
    token = msgspec.json.decode(pool.request("POST", f"{url}/connect/token").data)["access_token"]
    decoder = msgspec.json.Decoder(Envelope)

    def one(number: int) -> int:
        pages, cursor = 0, ""
        while pages == 0 or cursor:
            target = f"{url}{PATH}?from={number}&to={number + 1}&limit={page}" + (f"&queryMore={cursor}" if cursor else "")
            cursor = decoder.decode(pool.request("GET", target, headers={"Authorization": f"Bearer {token}"}).data).queryMore
            pages += 1
        return pages

    with ThreadPoolExecutor(parallel) as threads:
        return sum(threads.map(one, range(slices)))


def ours(folder: Path, *, slices: int, page: int, parallel: int) -> int:
    """Pull into Parquet; give how many pages there were."""
    from own import Store

    from limio_limitrail.api.pagination import CursorString
    from limio_limitrail.api.resource import Resource, TimeFilter
    from limio_limitrail.transfers.limitrail_to_object_storage import LimitRailToObjectStorageOperator

    resource = Resource(
        name="sliced", path=PATH, paging=CursorString(), time_filter=TimeFilter(since="from", until="to", field="-")
    )
    operator = LimitRailToObjectStorageOperator(
        task_id="pull",
        resource=resource,
        page_size=page,
        destination=f"file://{folder}/lake",
        format="parquet",
        since=START,
        until=START + slices * HOUR,
        slice_size=HOUR,
        concurrency=parallel,
    )
    ti = SimpleNamespace(id="1", dag_id="bench", task_id="pull", run_id="one", map_index=-1, try_number=1)
    context: Any = {"ti": ti, "task_state_store": Store(folder / "state.json"), "outlet_events": {}, "params": {}}
    return int(operator.execute(context)["pages"])


def measure(url: str, *, slices: int, pages: int, page: int, parallel: int) -> dict[str, tuple[float, float]]:
    """Give seconds and processor seconds of the bare loop and of the pull."""
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, run in (
            ("bare", lambda: bare(url, slices=slices, page=page, parallel=parallel)),
            ("ours", lambda: ours(Path(folder), slices=slices, page=page, parallel=parallel)),
        ):
            began, used = time.perf_counter(), time.process_time()
            found = run()
            figures[name] = (time.perf_counter() - began, time.process_time() - used)
            if found != slices * pages:
                raise SystemExit(f"{name}: {found} pages instead of {slices * pages}")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=24)
    parser.add_argument("--pages", type=int, default=20, help="pages a slice")
    parser.add_argument("--page", type=int, default=100, help="records a page")
    parser.add_argument("--milliseconds", type=float, nargs="+", default=[20.0, 100.0], help="before each page")
    parser.add_argument("--parallel", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="a file for the figures")
    chosen = parser.parse_args()

    home = tempfile.TemporaryDirectory()
    os.environ |= {"AIRFLOW_HOME": home.name, "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR"}
    sys.path.insert(0, str(HERE))
    from compare import source

    results = []
    for milliseconds in chosen.milliseconds:
        with source(records=chosen.pages * chosen.page, page=chosen.page, milliseconds=milliseconds) as url:
            connection = {"conn_type": "limitrail", "host": url, "login": "bench", "password": "bench-secret"}
            os.environ["AIRFLOW_CONN_LIMITRAIL_DEFAULT"] = json.dumps({**connection, "extra": {"scope": "limitrail.usage.read"}})
            ways = {"slices": chosen.slices, "pages": chosen.pages, "page": chosen.page}
            measure(url, **{**ways, "slices": 1}, parallel=1)  # imports
            rounds = [{n: measure(url, **ways, parallel=n) for n in chosen.parallel} for _ in range(chosen.rounds)]
            for parallel in chosen.parallel:
                row: dict[str, Any] = {"milliseconds": milliseconds, "parallel": parallel, **ways}
                for name in ("bare", "ours"):
                    row[f"{name}_seconds"] = statistics.median(one[parallel][name][0] for one in rounds)
                    row[f"{name}_cpu"] = statistics.median(one[parallel][name][1] for one in rounds)
                results.append(row)
                print(
                    f"{milliseconds:5.0f} ms a page, {parallel:2} at once: "
                    f"bare {row['bare_seconds']:6.2f} s (CPU {row['bare_cpu']:5.2f}), "
                    f"ours {row['ours_seconds']:6.2f} s (CPU {row['ours_cpu']:5.2f})",
                    flush=True,
                )
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=1) + "\n")
    home.cleanup()


if __name__ == "__main__":
    main()
