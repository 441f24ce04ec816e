# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A load into a held DuckDB file is killed between two statements, or its disk is full: nothing is half done."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
OWN_MOUNTS = ["unshare", "--user", "--map-root-user", "--mount"]


def run(*words, before=()):
    command = [*before, sys.executable, "-m", "tests.support.held_loads", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.exhaustive
@pytest.mark.parametrize(("mode", "step"), [("merge", 13), ("append", 9)])
def test_a_kill_between_two_statements(tmp_path, mode, step):
    found = run("kills", tmp_path, mode, step)
    assert found["kills"] >= 4
    assert found["wrong"] == []


@pytest.mark.exhaustive
def test_a_full_disk(tmp_path):
    try:
        subprocess.run([*OWN_MOUNTS, "mount", "-t", "tmpfs", "tmpfs", tmp_path], capture_output=True, timeout=60, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine lets no process mount a small disk of its own")
    disk = tmp_path / "disk"
    disk.mkdir()
    found = run("full", disk, before=OWN_MOUNTS)
    assert found.pop("cause") == "FULL"
    assert "Nothing was written" in found.pop("message")
    assert found == {"untouched": True, "inserted": 6_000, "updated": 10_000, "right": True, "left": []}
