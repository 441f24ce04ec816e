# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What docs/start/tutorial.md tells a newcomer to type, and docs/how-to/reconcile.md after it, typed."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import duckdb
import pytest

from tests.support.pages import ROOT, blocks

PAGE = "docs/start/tutorial.md"
RECONCILE = "docs/how-to/reconcile.md"
OWN = "Your own tenant"
INSTALL = "Install"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


@pytest.mark.exhaustive
def test_the_commands_lead_to_a_table(tmp_path: Path) -> None:
    """All blocks in one shell, in a fresh home; instead of the environment that *Install* makes, the one that runs this."""
    text = "\n".join(one.text for one in blocks(PAGE, language="bash") if one.section not in {INSTALL, OWN})
    assert text.count("airflow dags test") == 2
    text = text.replace("8765", str(free_port()))
    text = text.replace("subscriptions 1000 &\n", "subscriptions 1000 > emulator.log &\n")
    printed = typed(text.replace("kill %1", "kill -INT %1; wait %1"), folder=tmp_path)
    assert "1,000 rows came" in printed
    assert "1,000 inserted, 0 updated, 0 unchanged" in printed
    assert "0 inserted, 0 updated, 1,000 unchanged" in printed
    assert "active" in printed.split("subscriptions │")[1]
    with duckdb.connect(str(tmp_path / "limio-try" / "warehouse.duckdb"), read_only=True) as warehouse:
        assert warehouse.execute("SELECT count(*), count(DISTINCT id) FROM subscriptions").fetchall() == [(1000, 1000)]


@pytest.mark.exhaustive
def test_a_month_is_closed_and_another_is_not(tmp_path: Path, airflow_template: Path) -> None:
    """The blocks of the page about reconciliations, in the tutorial's shell and home."""
    [home] = blocks(PAGE, section="An Airflow", language="bash")
    first, second = (one.text for one in blocks(RECONCILE, section="Try it", language="bash"))
    # A person needs longer to type on than the emulator to start.
    first = first.replace(
        "lr-demo-secret &\n", "lr-demo-secret > emulator.log &\nuntil grep -q listening emulator.log; do sleep 1; done\n"
    )
    # The other test migrates a database; copying one is quicker.
    copied = home.text.replace("airflow db migrate", f"cp {airflow_template}/airflow.db $AIRFLOW_HOME")
    assert copied != home.text
    text = "\n".join(["mkdir -p ~/limio-try/airflow/dags", copied, first, f"{second.rstrip()} || true"])
    text = text.replace("8765", str(free_port()))
    closed, _, open_ = typed(text, folder=tmp_path).partition('"usage":["use-')
    assert "25 records of usage" in closed
    assert ": 25 are equal." in closed
    assert "sum up to 75 in the ledger, and to 75 in the list" in closed
    assert "UsageDifferencesError" not in closed
    assert "1 records of the list are not in the ledger (max_only_theirs=0). limitrail_usage_differences lists them" in open_


def typed(text: str, *, folder: Path) -> str:
    """Run what a person types in one shell, whose home is a folder; return what is printed."""
    script = "set -e -m\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n" + text
    (folder / "type.sh").write_text(script)
    own = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTEST_", "COV_"))}
    environment = {**own, "HOME": str(folder), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{own['PATH']}"}
    (folder / "dags_examples").symlink_to(ROOT / "dags_examples")
    done = subprocess.run(
        ["bash", "type.sh"], cwd=folder, env=environment, capture_output=True, text=True, timeout=600, start_new_session=True
    )
    printed = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    assert done.returncode == 0, printed[-6000:]
    return printed


def test_what_is_installed_is_there() -> None:
    [install] = blocks(PAGE, section=INSTALL, language="bash")
    *_, pip = install.commands()
    extras = re.fullmatch(r"pip install '\.\[([a-z,]+)\]'", pip)
    assert extras is not None
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras[1].split(",")) <= set(known)
