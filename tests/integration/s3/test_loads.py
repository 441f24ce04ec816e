# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Parts in a bucket are loaded as those in a folder are."""

from __future__ import annotations

import pytest

from tests.support.landed import duck_rows

pytestmark = pytest.mark.needs_s3

WAYS = 'page_size=17, part_rows=34, nested_columns={"offer_path": "data.offer.path"}, outlets=[Asset("subs")]'


def rows_in(name, *, table, postgres, duck):
    """All of a table but when and by whom it was brought, in no order."""
    if name == "pg":
        import psycopg
        from psycopg.rows import dict_row

        with psycopg.connect(
            host=postgres["host"], user="postgres", dbname=postgres["schema"], row_factory=dict_row
        ) as connection:
            rows = connection.execute(f"SELECT * FROM {table}").fetchall()
    else:
        rows = duck_rows(duck, table)
    return sorted(repr({key: value for key, value in row.items() if key not in ("_extracted_at", "_run_id")}) for row in rows)


@pytest.mark.parametrize("name", ["pg", "duck"])
def test_the_same_rows_as_from_a_folder(make_home, limio_emulator, postgres_connection, tmp_path, bucket, name):
    home = make_home(limio_emulator, name="second", pg=postgres_connection, **bucket.connections)
    tasks = [
        f'LimioToSqlOperator(task_id="{staging}_{mode}", resource="subscriptions", sql_conn_id="{name}", '
        f'table="{staging}_{mode}", mode="{mode}", staging={url!r}, {WAYS})'
        for staging, url in (("folder", None), ("bucket", bucket.url))
        for mode in ("merge", "append", "replace")
    ]
    home.write_dag("\n".join(tasks))
    summaries = []
    for _ in range(2):
        done = home.run()
        assert done.result["state"] == "success", home.output()[-3000:]
        summaries.append({task: found["xcom"] for task, found in done.result["tasks"].items()})
        limio_emulator.advance(60, changed=20, added=10)
    assert bucket.names() == []
    for mode, rows in (("merge", 210), ("append", 410), ("replace", 210)):
        found = [
            rows_in(name, table=f"{staging}_{mode}", postgres=postgres_connection, duck=tmp_path / "warehouse.duckdb")
            for staging in ("folder", "bucket")
        ]
        assert len(found[0]) == rows
        assert found[0] == found[1]
        for summary in summaries:
            counts = ("rows", "parts", "pages", "inserted", "updated", "unchanged", "deleted", "duplicates")
            bucket_, folder = summary[f"bucket_{mode}"], summary[f"folder_{mode}"]
            assert [bucket_[count] for count in counts] == [folder[count] for count in counts]
            assert bucket_["parts"] == 6 + (bucket_["rows"] > 204)
