# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""`make audit` passes where nothing was found, and never where nothing was looked up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
OLD = ["requests", "urllib3", "jinja2"]

PIP_AUDIT = """
import json, os, sys
says = json.loads(os.environ["SAYS"])
path = sys.argv[sys.argv.index("-r") + 1]
probes = "2.19.0" in open(path).read()
said = says["probes" if probes else "dependencies"]
if isinstance(said, str):
    sys.exit(said)
print("a warning", file=sys.stderr)
print(json.dumps({"dependencies": said}))
sys.exit(any(one.get("vulns") for one in said))
"""
BANDIT = """
import os, sys
if os.environ["SAYS_BANDIT"] in sys.argv:
    print(">> Issue: B999")
    sys.exit(1)
"""


def one(name: str, *vulnerabilities: str) -> dict[str, object]:
    return {
        "name": name,
        "version": "1.0",
        "vulns": [{"id": vulnerability, "fix_versions": ["1.1"]} for vulnerability in vulnerabilities],
    }


def skipped(name: str) -> dict[str, object]:
    return {"name": name, "skip_reason": "Dependency not found"}


KNOWN = [one(name, "PYSEC-1") for name in OLD]
FINE = [one("a"), one("b")]
CASES = {
    "nothing is found": (KNOWN, FINE, "", 0, "ok     pip-audit: nothing is known of the 2 releases"),
    "something is vulnerable": (KNOWN, [one("a", "PYSEC-2"), one("b")], "", 1, "FAILED pip-audit: a 1.0: PYSEC-2; fixed in 1.1"),
    "the index knows none of the probes": ([skipped(name) for name in OLD], [skipped("a")], "", 2, "NOT AUDITED"),
    "the index has them and no data": ([one(name) for name in OLD], FINE, "", 2, "it reports 0. This is no pass"),
    "the index has data of some": ([one(OLD[0], "PYSEC-1"), one(OLD[1]), one(OLD[2])], FINE, "", 2, "it reports 1"),
    "there is no index": ("ConnectionError: at https://secret-host.example", FINE, "", 2, "here (ConnectionError)"),
    "the index goes away": (KNOWN, "ConnectionError: x", "", 2, "NOT AUDITED: the dependencies (ConnectionError)"),
    "one is not known": (KNOWN, [one("a"), skipped("b")], "", 2, "NOT AUDITED: b"),
    "one is vulnerable and one not known": (KNOWN, [one("a", "PYSEC-2"), skipped("b")], "", 1, "NOT AUDITED: b"),
    "bandit finds something": (KNOWN, FINE, "-x", 1, ">> Issue: B999"),
    "bandit finds something in SQL": (KNOWN, FINE, "B101,B608", 1, "FAILED bandit"),
    "both": ([], FINE, "-x", 1, "NOT AUDITED"),
}


@pytest.mark.parametrize("case", CASES)
def test_audit(case: str, tmp_path: Path) -> None:
    probes, dependencies, bandit, code, said = CASES[case]
    for name, text in {"pip_audit": PIP_AUDIT, "bandit": BANDIT}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
        (tmp_path / name / "__main__.py").write_text(text)
    environment = {
        **os.environ,
        "PYTHONPATH": str(tmp_path),
        "SAYS": json.dumps({"probes": probes, "dependencies": dependencies}),
        "SAYS_BANDIT": bandit or "never",
    }
    command = [sys.executable, str(ROOT / "tests/packaging/audit.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert (done.returncode, said in done.stdout) == (code, True), done.stdout + done.stderr
    assert "secret-host" not in done.stdout
    assert ("ok     pip-audit" in done.stdout) == (code == 0 or "bandit finds" in case)
