# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Run the tests of loads by dlt that need more than the others: Delta and Iceberg tables, an S3 API on this machine, and MariaDB.

Those of MariaDB are skipped where mariadbd is not installed.

``python tests/packaging/check_dlt.py UV [PYTEST ARGUMENTS]``, where UV is the uv to install with. The environment is made in
.test-dlt/ and kept as long as pyproject.toml, constraints.txt and this file stay the same.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".test-dlt"
PYTHON = HOME / "bin" / "python"
PACKAGES = ["apache-airflow-providers-amazon[s3fs]", "moto[s3,server]", "pymysql"]
EXTRAS = "dlt,dlt-delta,dlt-iceberg,duckdb,emulator,postgres"
# botocore wants a python-dateutil before 3.
UNPINNED = ("python-dateutil==",)
TESTS = ["tests/integration/dlt", "tests/integration/dlt_source", "tests/dlt"]
MARKERS = "needs_s3 or needs_table_formats or needs_mariadb"


def main(uv: str, arguments: list[str]) -> int:
    pins = (ROOT / "constraints.txt").read_text()
    made_of = (ROOT / "pyproject.toml").read_text() + pins + Path(__file__).read_text()
    stamp = HOME / "made-of.txt"
    if not stamp.exists() or stamp.read_text() != made_of:
        print(
            "== making .test-dlt and installing deltalake, pyiceberg, Amazon's provider and an S3 API (a minute or two)",
            flush=True,
        )
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(HOME)], check=True)
        constraints = HOME / "constraints.txt"
        constraints.write_text("".join(line for line in pins.splitlines(keepends=True) if not line.startswith(UNPINNED)))
        install = [uv, "pip", "install", "--quiet", "--python", str(PYTHON), "--constraints", str(constraints)]
        tests = ["--group", f"{ROOT / 'pyproject.toml'}:test"]
        subprocess.run([*install, *tests, "--editable", f"{ROOT}[{EXTRAS}]", *PACKAGES], check=True)
        stamp.write_text(made_of)
    test = [str(PYTHON), "-m", "pytest", "-m", MARKERS, "-p", "no:cacheprovider", *arguments]
    tests = [] if any(Path(argument.partition("::")[0]).exists() for argument in arguments) else TESTS
    # In both tiers: no other target runs these tests.
    environment = {**os.environ, "UV_PYTHON_DOWNLOADS": "never", "LIMIO_LIMITRAIL_TEST_ALL": "1"}
    return subprocess.run([*test, *tests], cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
