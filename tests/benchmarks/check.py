# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Has this package become slower? ``check.py`` compares with `baseline.json`; ``check.py --write`` writes that file.

What is compared is how many times as fast as a loop written by hand a pull is, each in turn on the same machine: seconds would
depend on the machine. It takes less than a minute. Other work on the machine upsets it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "pull"))

from compare import compare

HERE = Path(__file__).resolve().parent
BASELINE = HERE / "baseline.json"
RECORDS = 60_000
ROUNDS = 3
LANDINGS = ("lines", "parquet", "duckdb", "postgres")
LOST = 0.75
"""With less than this share of the baseline's ratio, something has been lost."""


def ratios() -> dict[str, float]:
    """Measure how fast each pull is, in times of the loop by hand."""
    contestants = [f"{who}.{landing}" for landing in LANDINGS for who in ("by_hand", "own")]
    found = compare(contestants, records=RECORDS, milliseconds=0, rounds=ROUNDS)
    return {landing: found[f"by_hand.{landing}"].seconds / found[f"own.{landing}"].seconds for landing in LANDINGS}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the baseline")
    found = ratios()
    if parser.parse_args().write:
        BASELINE.write_text(json.dumps({landing: round(ratio, 2) for landing, ratio in found.items()}, indent=1) + "\n")
    baseline = json.loads(BASELINE.read_text())
    lost = [landing for landing in LANDINGS if found[landing] < LOST * baseline[landing]]
    print(f"{'':10} {'now':>6} {'before':>7}   times the loop by hand")
    for landing in LANDINGS:
        trouble = "lost more than a quarter" if landing in lost else ""
        print(f"{landing:10} {found[landing]:6.2f} {baseline[landing]:7.2f}   {trouble}")
    return len(lost)


if __name__ == "__main__":
    sys.exit(main())
