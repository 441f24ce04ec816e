# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What benchmarks know of processes: what this one has used, and servers in processes of their own."""

from __future__ import annotations

import contextlib
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


def peak() -> float:
    """Give the most memory that this process has used so far, in MB. (``ru_maxrss`` would begin with the parent's.)"""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024


def cpu() -> float:
    """Give the processor time of this process, in seconds."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@contextlib.contextmanager
def served(script: Path, *arguments: object) -> Iterator[str]:
    """Run a script that prints the port on which it serves; gives its URL."""
    command = [sys.executable, str(script), *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()
