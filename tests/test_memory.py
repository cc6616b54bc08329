"""What `keep_memory` does to the pages of large arrays."""

import platform

import pytest

from tests.support.process import ROOT, run_python

# Without Paddle, whose import takes seconds. Prints page faults of a large array that is made again
# and again, before and after.
SCRIPT = """
import resource, runpy, sys
import numpy as np

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        np.ones(1 << 26, np.uint8)  # more than glibc keeps by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = faults()
assert runpy.run_path(sys.argv[1])["keep_memory"]()
faults()
print(first, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_pages_are_kept():
    path = ROOT / "paddle_dcn" / "_memory.py"
    done = run_python("-c", SCRIPT, path, NUMPY_MADVISE_HUGEPAGE=0)
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())
    assert before > 3 * 16000 and after < 100
