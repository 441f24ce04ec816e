# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What all tests share: an Airflow home of their own, and the emulator's fixtures."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

# Before anything imports Airflow, which reads these once. Each test process has a home of its own, and none is the user's.
_HOME = tempfile.mkdtemp(prefix="limio-limitrail-tests-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
os.environ["AIRFLOW_HOME"] = _HOME
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
for _name in [name for name in os.environ if name.startswith("AIRFLOW_CONN_")]:
    del os.environ[_name]

pytest_plugins = ["limio_limitrail.emulator.pytest_plugin"]
