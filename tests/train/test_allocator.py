"""Freed memory stays with the process after `keep_freed_memory`, and is given back without it."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import numpy as np
from outpace.train.allocator import keep_freed_memory

def resident_mb():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6

if {keep}:
    assert keep_freed_memory()
block = np.ones(16_000_000)
full = resident_mb()
del block
print(full - resident_mb())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
@pytest.mark.parametrize("keep", [True, False])
def test_a_freed_block_stays_only_where_asked_for(keep: bool) -> None:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(keep=keep)], capture_output=True, text=True, check=True
    )
    given_back = float(run.stdout)
    assert given_back < 10 if keep else given_back > 100
