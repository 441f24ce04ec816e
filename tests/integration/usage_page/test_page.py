# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What docs/how-to/usage-page.md says: its options, and its index."""

from __future__ import annotations

import configparser
from datetime import timedelta

from limio_limitrail.plugins.usage_page.settings import read_settings
from tests.support.big_ledger import fill_ledger
from tests.support.pages import blocks

PAGE = "docs/how-to/usage-page.md"


def test_the_options_are_read(monkeypatch):
    [block] = blocks(PAGE, section="Look at usage in Airflow", language="ini")
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(block.text)
    for option, text in parser["limio_limitrail"].items():
        monkeypatch.setenv(f"AIRFLOW__LIMIO_LIMITRAIL__{option.upper()}", text)
    found = read_settings()
    assert found.problems == []
    assert [one.title for one in found.ledgers] == ["Usage"]
    assert [(one.title, one.promise) for one in found.pulls] == [("orders", timedelta(hours=26))]


def test_the_index_finds_what_needs_a_person(postgres_connection):
    database = fill_ledger(postgres_connection, rows=5000, dag_id="commit")
    database.execute("ALTER TABLE ledger RENAME TO limitrail_usage_ledger")
    [block] = blocks(PAGE, section="Large ledgers", language="sql")
    database.execute(block.text, "ANALYZE limitrail_usage_ledger")
    plan = database.query("EXPLAIN SELECT * FROM limitrail_usage_ledger WHERE state = 'parked' AND in_doubt_since > 0")
    assert "limitrail_usage_open" in str(plan)
