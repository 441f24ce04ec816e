# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Run the recipes that let Snowflake, BigQuery and Redshift load files, with the providers of these.

``python tests/packaging/check_bulk_loads.py UV [PYTEST ARGUMENTS]``, where UV is the uv to install with. The environment is made
in .recipes/ and kept as long as pyproject.toml and this file stay the same: the providers are too heavy for that of all other
tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".recipes"
PYTHON = HOME / "bin" / "python"
# With the versions of constraints.txt they cannot be installed: Snowflake's connector wants an older protobuf.
PACKAGES = [
    "apache-airflow-providers-amazon[s3fs]",
    "apache-airflow-providers-google",
    "apache-airflow-providers-snowflake",
    "moto[server]",
    "pytest",
    "pytest-timeout",
]


def main(uv: str, arguments: list[str]) -> int:
    made_of = (ROOT / "pyproject.toml").read_text() + Path(__file__).read_text()
    stamp = HOME / "made-of.txt"
    if not stamp.exists() or stamp.read_text() != made_of:
        print("== making .recipes and installing the warehouses' providers (a minute or two)", flush=True)
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(HOME)], check=True)
        install = [uv, "pip", "install", "--quiet", "--python", str(PYTHON), "--editable", f"{ROOT}[duckdb,emulator]"]
        subprocess.run([*install, *PACKAGES], check=True)
        stamp.write_text(made_of)
    test = [str(PYTHON), "-m", "pytest", str(ROOT / "tests" / "packaging" / "bulk_loads"), "-p", "no:cacheprovider", *arguments]
    return subprocess.run(test, cwd=ROOT, env={**os.environ, "UV_PYTHON_DOWNLOADS": "never"}).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
