# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Run one example Dag once, as ``dag.test()`` does it: ``python run_dag.py MODULE``; it exits with 0 if every task succeeded."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def main() -> int:
    """Run the Dag, print its run id last, and give the exit status."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    module = importlib.import_module(sys.argv[1])
    run = module.dag.test()
    print(f"run_id={run.run_id}", flush=True)
    return 0 if str(run.state) == "success" else 1


if __name__ == "__main__":
    sys.exit(main())
