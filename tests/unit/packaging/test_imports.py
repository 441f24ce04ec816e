# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Nothing that this package imports is about to go away."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import limio_limitrail
from tests.support.airflow_versions import UNIMPORTABLE

FOLDER = Path(limio_limitrail.__file__).parent


def test_importing_all_of_it_uses_nothing_deprecated():
    modules = [module.name for module in pkgutil.walk_packages(limio_limitrail.__path__, "limio_limitrail.")]
    code = (
        "import importlib, json, warnings\n"
        "with warnings.catch_warnings(record=True) as told:\n"
        "    warnings.simplefilter('always')\n"
        f"    for name in {sorted(set(modules) - UNIMPORTABLE)!r}: importlib.import_module(name)\n"
        "print(json.dumps([[one.category.__name__, one.filename, str(one.message)] for one in told]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600)
    told = json.loads(done.stdout.splitlines()[-1])
    # A warning's file is the one that its stack level leads to. Airflow's own sometimes lead nowhere, but name the class.
    assert [one for one in told if Path(one[1]).is_relative_to(FOLDER) or "limio_limitrail" in one[2]] == []
