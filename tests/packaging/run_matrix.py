# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Run the fast tests on the oldest and the newest supported Airflow, by each supported Python that is here.

``python tests/packaging/run_matrix.py UV [--workers N] [NAME ...]``, where a NAME is such as ``oldest-3.13``. UV is the uv to
install with. The environments are made in .matrix/ and kept as long as pyproject.toml stays the same.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
MATRIX = ROOT / ".matrix"
PYPROJECT = ROOT / "pyproject.toml"
PACKAGE = f"{ROOT}[duckdb,emulator,postgres]"

TESTS = [
    "tests/unit",
    "tests/integration/polling/test_triggers.py",
    "tests/integration/polling/test_modes.py",
    "tests/integration/pull/test_whole.py",
]

# Airflow 3.2.0 does not start with everything that came after it, such as pydantic 2.14. The provider for DuckDB is younger.
OF_ITS_TIME = ["--exclude-newer", "2026-05-01", "--exclude-newer-package", "apache-airflow-providers-duckdb=2026-11-01"]
# An oldest version for which a Python has no wheel would be built from source, for half an hour: that is an error here.
WHEELS = [part for name in ("duckdb", "grpcio", "msgspec", "numpy", "pandas", "pyarrow") for part in ("--only-binary", name)]


@dataclass
class Outcome:
    """What came of one environment."""

    name: str
    python: str = ""
    airflow: str = ""
    trouble: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def fine(self) -> bool:
        return not self.trouble and bool(self.counts["passed"]) and not self.counts["failed"]

    def row(self) -> list[str]:
        if self.trouble:
            return [self.name, self.python, self.airflow, self.trouble, "", "", ""]
        numbers = [str(self.counts[kind]) for kind in ("passed", "failed", "skipped")]
        return [self.name, self.python, self.airflow, *numbers, f"{self.seconds:.0f} s"]


def supported() -> list[str]:
    """Give the Pythons that pyproject.toml names."""
    classifiers = tomllib.loads(PYPROJECT.read_text())["project"]["classifiers"]
    versions = [name.rpartition(" ")[2] for name in classifiers if name.startswith("Programming Language :: Python :: 3.")]
    return sorted(versions, key=lambda version: int(version.partition(".")[2]))


def find_python(version: str) -> str | None:
    """Give a Python of a version, of those that are here: on the path, or one of pyenv's."""
    found = [sys.executable, shutil.which(f"python{version}")]
    if shutil.which("pyenv"):
        root = subprocess.run(["pyenv", "root"], capture_output=True, text=True).stdout.strip()
        found += sorted(map(str, Path(root, "versions").glob(f"{version}.*/bin/python")), reverse=True)
    for python in filter(None, found):
        # What pyenv puts on the path may be there and not work.
        asked = subprocess.run(
            [python, "-c", "import sys; print(*sys.version_info[:2], sep='.')"], capture_output=True, text=True
        )
        if asked.returncode == 0 and asked.stdout.strip() == version:
            return python
    return None


def install(uv: str, *, folder: Path, python: str, oldest: bool) -> None:
    """Make an environment, unless it is there already.

    :raises CalledProcessError: it cannot be made.
    """
    stamp = folder / ".made"
    made_for = PYPROJECT.read_text() + python
    if stamp.exists() and stamp.read_text() == made_for:
        return
    print(f"== {folder.name}: installing", flush=True)
    into = [uv, "pip", "install", "--quiet", "--python", folder / "bin/python", *WHEELS]
    subprocess.run([uv, "venv", "--quiet", "--clear", "--python", python, folder], check=True)
    tests = ["--group", f"{PYPROJECT}:test"]
    if not oldest:
        subprocess.run([*into, *tests, "--editable", PACKAGE], check=True)
    else:
        # In two steps: the oldest versions are those of what the package itself needs, not those of the tests' tools.
        subprocess.run([*into, *OF_ITS_TIME, "--resolution", "lowest-direct", "--editable", PACKAGE], check=True)
        listing = [uv, "pip", "freeze", "--exclude-editable", "--python", folder / "bin/python"]
        pins = folder / "pins.txt"
        pins.write_text(subprocess.run(listing, check=True, capture_output=True, text=True).stdout)
        subprocess.run([*into, *OF_ITS_TIME, "--constraints", pins, *tests], check=True)
    stamp.write_text(made_for)


def read_report(report: Path, outcome: Outcome) -> None:
    """Count what pytest has reported."""
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        skipped = case.find("skipped")
        bad = case.find("failure") is not None or case.find("error") is not None
        outcome.counts["failed" if bad else "passed" if skipped is None else "skipped"] += 1
        if bad:
            outcome.failed.append(f"{case.get('classname')}.{case.get('name')}")
        if skipped is not None:
            outcome.reasons[skipped.get("message", "")] += 1


def run(uv: str, *, kind: str, version: str, workers: str) -> Outcome:
    """Make one environment, and run the tests in it."""
    outcome = Outcome(f"{kind}-{version}")
    python = find_python(version)
    if python is None:
        outcome.trouble = "this Python is not here"
        return outcome
    folder = MATRIX / outcome.name
    try:
        install(uv, folder=folder, python=python, oldest=kind == "oldest")
    except subprocess.CalledProcessError:
        outcome.trouble = "cannot be installed"
        return outcome
    tell = "import importlib.metadata, platform; print(platform.python_version(), importlib.metadata.version('apache-airflow'))"
    told = subprocess.run([folder / "bin/python", "-c", tell], check=True, capture_output=True, text=True)
    outcome.python, outcome.airflow = told.stdout.split()
    print(f"== {outcome.name}: Python {outcome.python}, Airflow {outcome.airflow}", flush=True)
    report = MATRIX / f"{outcome.name}.xml"
    report.unlink(missing_ok=True)
    # Warnings of other versions' libraries are not this package's.
    warnings = ["-W", "default", "-W", "error::DeprecationWarning:limio_limitrail"]
    options = ["-q", "-n", workers, "-p", "no:cacheprovider", *warnings, f"--junitxml={report}"]
    began = time.monotonic()
    log = MATRIX / f"{outcome.name}.log"
    with log.open("w") as output:
        command = [folder / "bin/python", "-m", "pytest", *options, *TESTS]
        code = subprocess.run(command, cwd=ROOT, stdout=output, stderr=output).returncode
    outcome.seconds = time.monotonic() - began
    # 1 says that tests failed, which the report tells better.
    if code not in (0, 1) or not report.exists():
        outcome.trouble = f"pytest ended with {code}: see {log.relative_to(ROOT)}"
        return outcome
    read_report(report, outcome)
    return outcome


def show(outcomes: list[Outcome]) -> None:
    """Print the table."""
    rows = [["environment", "Python", "Airflow", "passed", "failed", "skipped", "time"], *(one.row() for one in outcomes)]
    widths = [max(len(row[column]) for row in rows if len(row[column]) < 12) for column in range(len(rows[0]))]
    print()
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for one in outcomes:
        for name in one.failed:
            print(f"failed on {one.name}: {name}")
    reasons = {(one.name.partition("-")[0], reason): count for one in outcomes for reason, count in one.reasons.items()}
    for (kind, reason), count in reasons.items():
        print(f"skipped on {kind}: {reason} ({count})")


def main() -> None:
    """Run what is asked for, or all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("uv")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--workers", default="2")
    asked = parser.parse_intermixed_args()
    os.environ["UV_PYTHON_DOWNLOADS"] = "never"
    MATRIX.mkdir(exist_ok=True)
    wanted = [(kind, version) for kind in ("oldest", "newest") for version in supported()]
    unknown = set(asked.names) - {f"{kind}-{version}" for kind, version in wanted}
    if unknown:
        parser.error(f"no environment is called {', '.join(sorted(unknown))}")
    outcomes = [
        run(asked.uv, kind=kind, version=version, workers=asked.workers)
        for kind, version in wanted
        if not asked.names or f"{kind}-{version}" in asked.names
    ]
    show(outcomes)
    ran = [one for one in outcomes if one.trouble != "this Python is not here"]
    sys.exit(0 if ran and all(one.fine for one in ran) else 1)


if __name__ == "__main__":
    main()
