# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Pulls as one would write them by hand for speed alone: no retry, no resume, no watermark, no check of anything."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import urllib3

PAGE = 1000
PAGES_AT_ONCE = 20


class _Envelope(msgspec.Struct):
    items: msgspec.Raw
    queryMore: str  # noqa: N815 - the API's name


def bodies(url: str) -> Iterator[_Envelope]:
    """Give all pages, undecoded."""
    pool = urllib3.PoolManager()
    token = msgspec.json.decode(pool.request("POST", f"{url}/oauth2/token").data)["access_token"]
    decoder = msgspec.json.Decoder(_Envelope)
    cursor = ""
    while True:
        target = f"{url}/api/objects/limio/subscriptions?limit={PAGE}" + (f"&queryMore={cursor}" if cursor else "")
        page = decoder.decode(pool.request("GET", target, headers={"Authorization": f"Bearer {token}"}).data)
        yield page
        cursor = page.queryMore
        if not cursor:
            return


def nothing(url: str, folder: Path) -> int:
    """Fetch every page and throw it away."""
    return sum(PAGE for _ in bodies(url))


def lines(url: str, folder: Path) -> int:
    """Write JSON Lines, not compressed."""
    decoder, rows = msgspec.json.Decoder(list[msgspec.Raw]), 0
    with (folder / "out.jsonl").open("wb") as out:
        for page in bodies(url):
            records = decoder.decode(page.items)
            out.write(b"\n".join(map(bytes, records)) + b"\n")
            rows += len(records)
    return rows


def _tables(url: str) -> Iterator[Any]:
    """Read twenty pages at once with pyarrow's JSON reader."""
    import pyarrow.json

    decoder, waiting = msgspec.json.Decoder(list[msgspec.Raw]), []
    for page in bodies(url):
        waiting += decoder.decode(page.items)
        if len(waiting) >= PAGE * PAGES_AT_ONCE or not page.queryMore:
            text = b"\n".join(map(bytes, waiting)) + b"\n"
            yield pyarrow.json.read_json(io.BytesIO(text), pyarrow.json.ReadOptions(block_size=1 << 25))
            waiting = []


def parquet(url: str, folder: Path) -> int:
    """Write Parquet with pyarrow's own types, nested ones included."""
    import pyarrow.parquet

    rows, writer = 0, None
    for table in _tables(url):
        writer = writer or pyarrow.parquet.ParquetWriter(folder / "out.parquet", table.schema, compression="zstd")
        writer.write_table(table)
        rows += table.num_rows
    if writer is not None:
        writer.close()
    return rows


def duckdb(url: str, folder: Path) -> int:
    """Write JSON Lines, and let DuckDB read them into a table with a key."""
    import duckdb

    lines(url, folder)
    with duckdb.connect(str(folder / "out.duckdb")) as connection:
        connection.execute(f"CREATE TABLE subscriptions AS SELECT * FROM read_json('{folder}/out.jsonl', format='nd')")
        return int(connection.execute("SELECT count(*) FROM subscriptions").fetchone()[0])


def postgres(url: str, folder: Path, dsn: str) -> int:
    """Copy typed top-level columns and jsonb into a table with a primary key."""
    import psycopg

    struct = msgspec.defstruct(
        "Record",
        [("id", str), ("name", str), ("status", str), ("reference", str), ("owner", str), ("created", str), ("updated", str),
         ("record_type", str), ("mode", str), ("quantity", int), ("recurring", bool), ("data", msgspec.Raw),
         ("terms", msgspec.Raw)],
    )  # fmt: skip
    decoder, rows = msgspec.json.Decoder(list[struct]), 0
    names = struct.__struct_fields__
    types = {"created": "timestamptz", "updated": "timestamptz", "quantity": "bigint", "recurring": "boolean", "data": "jsonb",
             "terms": "jsonb", "id": "text PRIMARY KEY"}  # fmt: skip
    with psycopg.connect(dsn) as connection, connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS by_hand")
        cursor.execute(f"CREATE TABLE by_hand ({', '.join(name + ' ' + types.get(name, 'text') for name in names)})")
        with cursor.copy(f"COPY by_hand ({', '.join(names)}) FROM STDIN") as copy:
            for page in bodies(url):
                for record in decoder.decode(page.items):
                    copy.write_row(
                        [
                            bytes(value).decode() if isinstance(value, msgspec.Raw) else value
                            for value in msgspec.structs.astuple(record)
                        ]
                    )
                    rows += 1
    return rows


def requests_parquet(url: str, folder: Path) -> int:
    """Do what ordinary code does: requests, ``.json()``, one Parquet file."""
    import pyarrow
    import pyarrow.parquet
    import requests

    session = requests.Session()
    token = session.post(f"{url}/oauth2/token", timeout=60).json()["access_token"]
    session.headers["Authorization"] = f"Bearer {token}"
    rows, writer, cursor = 0, None, ""
    while True:
        more = {"queryMore": cursor} if cursor else {}
        page = session.get(f"{url}/api/objects/limio/subscriptions", params={"limit": PAGE, **more}, timeout=60).json()
        table = pyarrow.Table.from_pylist(page["items"])
        writer = writer or pyarrow.parquet.ParquetWriter(folder / "out.parquet", table.schema)
        writer.write_table(table)
        rows += table.num_rows
        cursor = page["queryMore"]
        if not cursor:
            break
    writer.close()
    return rows
