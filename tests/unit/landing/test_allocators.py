# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A task process keeps little memory that it has freed."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

KEEP = "from limio_limitrail.landing.allocators import keep_caches_small\nkeep_caches_small()\n"
POOL = "import pyarrow as pa\nprint(pa.default_memory_pool().backend_name)\n"
THREADS = 6
HEAPS = f"""
import ctypes, threading
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
libc.fopen.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
libc.fclose.argtypes = [ctypes.c_void_p]
together = threading.Barrier({THREADS})

def work():
    together.wait()
    libc.malloc(10_000)
    together.wait()

threads = [threading.Thread(target=work) for _ in range({THREADS})]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
file = libc.fopen(b"/dev/stdout", b"w")
libc.malloc_info(0, file)
libc.fclose(file)
"""


def said(code, **environment):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ARROW_", "MALLOC_"))}
    done = subprocess.run([sys.executable, "-c", code], env=inherited | environment, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize("code", [KEEP + POOL, POOL.replace("print", "str") + KEEP + POOL], ids=["before Arrow", "after Arrow"])
def test_arrow_gives_memory_back(code):
    assert said(code) == "system\n"


def test_an_environment_that_names_arrows_allocator_is_kept():
    assert said(KEEP + POOL, ARROW_DEFAULT_MEMORY_POOL="mimalloc") == "mimalloc\n"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc")
def test_threads_share_heaps():
    assert said(HEAPS).count("<heap ") > 2
    assert said(KEEP + HEAPS).count("<heap ") <= 2
    assert said(KEEP + HEAPS, MALLOC_ARENA_MAX="4").count("<heap ") > 2
