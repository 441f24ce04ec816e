# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Every code block of the docs is run by a test, or is on a short list that says why not."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
import tomllib

import pytest
import yaml
from airflow.cli.cli_parser import get_parser
from airflow.sdk import Connection

from limio_limitrail.hooks.api_connections import read_limio_connection, read_limitrail_connection
from limio_limitrail.hooks.connection import Settings
from tests.support.pages import PAGES, ROOT, Block, blocks

ALL = [block for page in PAGES for block in blocks(page)]
SHELL = [(block, command) for block in ALL if block.language in {"console", "bash"} for command in block.commands()]
START = "tests/system/test_start_page.py"

RUN_ELSEWHERE = {
    # Page and section of blocks that a test takes out of the page and runs, by language.
    ("docs/how-to/recipes.md", "Slowly changing history", "sql"): "tests/system/test_recipes.py",
    ("docs/how-to/recipes.md", "Replay rejected usage", "sql"): "tests/system/test_recipes.py",
    ("docs/how-to/recipes.md", "Replay rejected usage", "json"): "tests/system/test_recipes.py",
    ("docs/how-to/history.md", "History", "sql"): "tests/integration/pull/test_history.py",
    ("docs/how-to/sql.md", "Into Postgres", "sql"): "tests/integration/pull/test_while_pulling.py",
    ("docs/how-to/deletes.md", "Whose rows they are", "sql"): "tests/integration/sql/test_missing_rows.py",
    ("docs/how-to/settle-usage.md", "Parked rows in SQL", "sql"): "tests/system/test_recipes.py",
    ("docs/how-to/settle-usage.md", "Left in doubt", "sql"): "tests/integration/ledger/test_left_in_doubt.py",
    ("docs/how-to/settle-usage.md", "Changed rows in SQL", "sql"): "tests/integration/usage/test_same_row.py",
    ("docs/how-to/settle-usage.md", "Rejected rows in SQL", "sql"): "tests/integration/usage/test_refused_again.py",
    ("docs/how-to/usage-page.md", "Look at usage in Airflow", "ini"): "tests/integration/usage_page/test_page.py",
    ("docs/how-to/usage-page.md", "Large ledgers", "sql"): "tests/integration/usage_page/test_page.py",
    ("docs/how-to/object-storage.md", "S3", "json"): "tests/integration/s3/test_page.py",
    ("docs/how-to/object-storage.md", "What the key may do", "json"): "tests/integration/s3/test_access.py",
    ("docs/how-to/reconcile.md", "Try it", "bash"): START,
    **{
        ("docs/start/tutorial.md", section, "bash"): START
        for section in ("An API to try it with", "An Airflow", "A Dag", "The table", "In the browser")
    },
}
NOT_RUN = {
    # Commands that no test runs, and why.
    "python3 -m venv ~/limio-try/venv": "make dist makes a fresh environment and installs the wheel into it",
    "source ~/limio-try/venv/bin/activate": "see above",
    "airflow dags test limio_subscriptions": "needs a tenant; against the emulator test_start_page runs it",
    "uv pip compile": "asks a package index for everything anew",
}
PICTURES = {
    ("docs/how-to/object-storage.md", "Contents of the folder"),
    ("docs/reference/ledger.md", "What can happen to a row"),
}
"""Blocks without a language: drawings."""


def elsewhere(block: Block) -> bool:
    return (block.page, block.section, block.language) in RUN_ELSEWHERE


@pytest.mark.parametrize("block", ALL, ids=str)
def test_each_block_is_of_a_kind_that_is_looked_after(block: Block) -> None:
    kind = block.language
    if kind.startswith("{"):
        # Sphinx builds these, and warns of what is wrong with them.
        assert kind.split()[0] in {"{toctree}", "{eval-rst}", "{include}"}
    elif kind == "python":
        assert block.snippet is not None, "Python comes out of a file that a test runs: see docs/include_snippets.py"
        file = ROOT / block.snippet.split()[0]
        assert file.is_relative_to(ROOT / "dags_examples") or file.name.startswith("test_")
        ast.parse(block.text)
    elif kind == "":
        assert (block.page, block.section) in PICTURES
    elif (block.page, block.section, kind) == ("docs/how-to/connections.md", "Links", "json"):
        pages = {
            "conn_type": "limio",
            "host": "acme",
            "login": "me",
            "password": "secret",
            "extra": {"region": "eu", "pages": json.loads(block.text)},
        }
        assert accepted("links", json.dumps(pages)).pages
    elif kind in {"sql", "json", "ini"}:
        assert elsewhere(block)
    else:
        assert kind in {"console", "bash"}


def test_every_public_class_has_a_snippet() -> None:
    registry = yaml.safe_load((ROOT / ".airflow-registry.yaml").read_text())
    classes = {
        entry["module"].rpartition(".")[2]
        for room in ("operators", "transfers", "sensors", "triggers", "hooks")
        for entry in registry[room]
    }
    # These two the sensors make.
    classes -= {"LimioWaitTrigger", "LimitRailWaitTrigger"}
    code = "\n".join(block.text for block in ALL if block.language == "python" and block.page.startswith("docs/"))
    assert {name for name in classes if not re.search(rf"\b{name}\(", code)} == set()


def test_what_is_said_to_be_run_elsewhere_is() -> None:
    for (page, section, language), test in RUN_ELSEWHERE.items():
        assert blocks(page, section=section, language=language), f"{page} has no {language} under {section!r}"
        source = (ROOT / test).read_text()
        assert "blocks(" in source
        assert page in source
        assert section in source or test == START


def test_the_reasons_are_still_needed() -> None:
    commands = [command for _, command in SHELL]
    assert [begin for begin in NOT_RUN if not any(command.startswith(begin) for command in commands)] == []


@pytest.mark.parametrize(("block", "command"), SHELL, ids=lambda value: str(value)[:60])
def test_each_command(block: Block, command: str) -> None:
    if elsewhere(block):
        return
    if command.startswith("make "):
        target = command.split()[1]
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), f"the Makefile has no {target}"
        tests = {"test", "test-all", "test-cluster", "test-matrix", "test-recipes", "test-s3", "test-ui"}
        assert target in {"setup", "lint", "audit", "demo", "dist", "docs", "bench", *tests}
    elif connection := re.fullmatch(r"export AIRFLOW_CONN_(\w+)='(.*)'", command, re.DOTALL):
        accepted(connection[1].lower(), re.sub(r"'\$\w+'", "/home/me", connection[2]))
    elif install := re.match(r"pip install '(?:airflow-provider-limio-limitrail|\.)\[([a-z,]+)\]'", command):
        known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert set(install[1].split(",")) <= set(known)
    elif command.startswith("airflow limitrail "):
        # What the commands do is tested in tests/integration/usage/test_settle.py.
        get_parser().parse_args(shlex.split(command.partition(">")[0])[1:])
    elif command.startswith("python -m limio_limitrail.emulator "):
        answers(command)
    else:
        assert any(command.startswith(begin) for begin in NOT_RUN), f"no test runs this: {command}"


def accepted(conn_id: str, text: str) -> Settings | None:
    """Let the hook read a connection."""
    fields = json.loads(text)
    fields["extra"] = json.dumps(fields.get("extra", {}))
    connection = Connection(conn_id=conn_id, **fields)
    readers = {
        "limio": read_limio_connection,
        "limitrail": read_limitrail_connection,
        "duckdb": lambda _: None,
        "generic": lambda _: None,
    }
    settings: Settings | None = readers[connection.conn_type](connection)
    assert settings is None or settings.client_id == connection.login
    return settings


def answers(command: str) -> None:
    """Start the emulator as the page says, on a free port."""
    words = re.sub(r"--port \d+", "--port 0", command).split()
    with subprocess.Popen([sys.executable, *words[1:]], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert re.search(r"listening on http://(127\.0\.0\.1|0\.0\.0\.0):\d+$", process.stdout.readline().strip())
        finally:
            process.terminate()
