"""The threads that the kernels run on are Paddle's."""

import os

import pytest

from tests.support.process import run_python

# Prints by how many threads the process has grown after calls on 1, 2 and 3 threads.
COUNT_THREADS = """
import os
import paddle
from paddle_dcn import deform_conv2d

tensors = [paddle.rand(shape) for shape in ([2, 64, 32, 32], [2, 18, 30, 30], [64, 64, 3, 3])]
counts = []
for threads in (1, 2, 3):
    paddle.base.core.set_num_threads(threads)
    deform_conv2d(*tensors)
    counts.append(len(os.listdir("/proc/self/task")))
print([count - counts[0] for count in counts])
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs Linux's /proc")
def test_paddles_thread_setting_takes_effect():
    """Paddle's own pool grows to the number of threads asked for."""
    process = run_python("-c", COUNT_THREADS, OMP_NUM_THREADS=1)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1] == "[0, 1, 2]"


def test_beside_another_openmp_runtime():
    """PyTorch, for one, puts its own in front of Paddle's."""
    code = """
import ctypes
ctypes.CDLL("libgomp.so.1", mode=ctypes.RTLD_GLOBAL)
import paddle
from paddle_dcn import _library
for threads in (1, 3, 2):
    paddle.base.core.set_num_threads(threads)
    assert _library.HANDLE.paddle_dcn_threads() == threads
"""
    process = run_python("-c", code, OMP_NUM_THREADS=None)
    if "libgomp.so.1: cannot open" in process.stderr:
        pytest.skip("libgomp is not installed")
    assert process.returncode == 0, process.stderr
