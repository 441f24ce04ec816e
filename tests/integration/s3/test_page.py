# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What docs/how-to/object-storage.md says of S3: its Dag runs with its connection."""

from __future__ import annotations

import json

import pytest

from tests.support.landed import duck_rows, manifest_of, rows_of
from tests.support.pages import ROOT, blocks

pytestmark = pytest.mark.needs_s3


def test_the_connection_and_the_dag_of_the_page(make_home, limio_emulator, bucket, gate, tmp_path):
    [block] = blocks("docs/how-to/object-storage.md", section="S3", language="json")
    fields = json.loads(block.text)
    assert fields["extra"]["endpoint_url"] == "https://minio.example.com"
    fields["extra"]["endpoint_url"] = gate.url
    warehouse = {"conn_type": "duckdb", "host": str(tmp_path / "warehouse.duckdb")}
    home = make_home(limio_emulator, name="page", lake=fields, warehouse=warehouse)
    text = (ROOT / "dags_examples" / "recipes" / "by_way_of_s3.py").read_text()
    assert text.count("//lake@my-lake/limio") == 2
    (home.path / "dags" / "by_way_of_s3.py").write_text(text.replace("//lake@my-lake/limio", bucket.url.removeprefix("s3:")))
    done = home.run("by_way_of_s3")
    assert done.result["state"] == "success", home.output()[-4000:]
    orders = bucket.here(done.task("orders")["xcom"]["folder"])
    assert manifest_of(orders)["format"] == "parquet"
    assert sorted(row["id"] for row in rows_of(orders)) == sorted(limio_emulator.tenant.ids("orders"))
    found = duck_rows(tmp_path / "warehouse.duckdb", "subscriptions")
    assert sorted(row["id"] for row in found) == sorted(limio_emulator.tenant.ids("subscriptions"))
    assert bucket.names("staging") == []
