# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The tests that docs/how-to/recipes.md gives users to copy run where users put them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "dags_examples"
DAGS = ("limio_subscriptions_in_ten_lines.py", "limitrail_usage_commit.py")


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTEST_"))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    environment = {**own, "TMPDIR": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.exhaustive
def test_they_pass(tmp_path: Path) -> None:
    (tmp_path / "dags").mkdir()
    for dag in DAGS:
        shutil.copy(EXAMPLES / dag, tmp_path / "dags")
    shutil.copytree(EXAMPLES / "recipes" / "testing", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    done = run(tmp_path)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "4 passed" in done.stdout
