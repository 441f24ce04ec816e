# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""An Airflow of the tests' own, and the emulator's fixtures. Copy it to ``tests/conftest.py``, beside your folder ``dags``."""

# [START conftest]
import os
import subprocess
import sys
import tempfile
from pathlib import Path

DAGS = Path(__file__).resolve().parent.parent / "dags"

# Airflow reads these once, when it is imported.
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp()
os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(DAGS)
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, capture_output=True)
sys.path.insert(0, str(DAGS))

pytest_plugins = ["limio_limitrail.emulator.pytest_plugin"]
# [END conftest]
