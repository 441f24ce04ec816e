# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Run example Dags once each, as ``dag.test()`` does it: ``python run_dag.py MODULE ...``.

It exits with 0 if every task succeeded, and prints the last run's id last.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def main() -> int:
    """Run the Dags one after another until a task fails; return the exit status."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    for name in sys.argv[1:]:
        run = importlib.import_module(name).dag.test()
        print(f"run_id={run.run_id}", flush=True)
        if str(run.state) != "success":
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
