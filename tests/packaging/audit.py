# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Audit the package: bandit over its code, pip-audit over the versions in ``constraints.txt``.

An index without data on vulnerabilities answers as one does for which nothing is vulnerable. So pip-audit is asked for releases
with known vulnerabilities as well: where it finds none in them, nothing has been audited, and that is what is said.

Exit codes: 0 for nothing found, 1 for something found, 2 for dependencies that were not audited.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CODE = "provider/limio_limitrail"
SQL = [f"{CODE}/ledger", f"{CODE}/landing/sql"]
"""Rooms whose SQL is made of text: every identifier in it goes through quote(), and values are bound."""

VULNERABLE = ("requests==2.19.0", "urllib3==1.24.1", "jinja2==2.10")
"""Releases with vulnerabilities that have been known for years."""

FOUND, NOT_AUDITED = 1, 2


def run(tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one of the tools that are installed beside this Python."""
    command = [sys.executable, "-m", tool, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)


def audit_code() -> int:
    """Run bandit, and say what it finds."""
    elsewhere = run("bandit", "-q", "-c", "pyproject.toml", "-r", CODE, "-x", ",".join(SQL))
    in_sql = run("bandit", "-q", "-c", "pyproject.toml", "-s", "B101,B608", "-r", *SQL)
    code = 0
    for done in (elsewhere, in_sql):
        if done.returncode:
            print(done.stdout + done.stderr)
            code = FOUND
    print(f"{'FAILED' if code else 'ok    '} bandit: {'see above' if code else f'nothing in {CODE}'}")
    return code


def ask(requirements: str) -> tuple[list[dict[str, Any]], str]:
    """Ask pip-audit about pinned releases; gives what it says of each, or why it says nothing."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "requirements.txt"
        file.write_text(requirements)
        done = run("pip_audit", "-r", str(file), "--no-deps", "--disable-pip", "--progress-spinner", "off", "-f", "json")
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        lines = done.stderr.strip().splitlines()
        return [], lines[-1].partition(":")[0] if lines else f"exit code {done.returncode}"
    return found, ""


def audit_dependencies(constraints: str) -> int:
    """Run pip-audit, and say what it finds, or that it found nothing out."""
    probes, why = ask("\n".join(VULNERABLE))
    known = sum(bool(one.get("vulns")) for one in probes)
    if known < len(VULNERABLE):
        reason = f" ({why})" if why else ""
        print(
            f"NOT AUDITED: the dependencies. The package index has no data on vulnerabilities here{reason}: of {len(VULNERABLE)} "
            f"releases that are known to be vulnerable it reports {known}. This is no pass: run make audit where there is data."
        )
        return NOT_AUDITED
    found, why = ask(constraints)
    vulnerable = [one for one in found if one.get("vulns")]
    for one in vulnerable:
        fixed = sorted({version for vulnerability in one["vulns"] for version in vulnerability["fix_versions"]})
        names = ", ".join(vulnerability["id"] for vulnerability in one["vulns"])
        print(f"FAILED pip-audit: {one['name']} {one['version']}: {names}; fixed in {', '.join(fixed) or 'no release yet'}")
    skipped = [one["name"] for one in found if "skip_reason" in one]
    if skipped or not found:
        print(f"NOT AUDITED: {', '.join(skipped) or 'the dependencies'}{f' ({why})' if why else ''}. This is no pass.")
    if vulnerable:
        return FOUND
    if skipped or not found:
        return NOT_AUDITED
    print(f"ok     pip-audit: nothing is known of the {len(found)} releases in constraints.txt")
    return 0


def main() -> int:
    """Audit both."""
    codes = [audit_code(), audit_dependencies((ROOT / "constraints.txt").read_text())]
    return FOUND if FOUND in codes else max(codes)


if __name__ == "__main__":
    sys.exit(main())
