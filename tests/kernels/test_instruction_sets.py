"""Every instruction set that this processor has, each in a process of its own."""

import os
import subprocess
import sys

import pytest

from paddle_dcn import _ops, deform_conv2d
from paddle_dcn._ops import INSTRUCTION_SETS
from tests.support.cases import COMPACT
from tests.support.comparison import assert_results_close
from tests.support.operators import expected, run
from tests.support.problems import DTYPES, random_problem


def in_use():
    """Return the instruction set that this process computes with."""
    return _ops.library().paddle_dcn_instruction_set().decode()


def check_table():
    """Hold the compact table against the reference; print the instruction set in use."""
    for case in COMPACT:
        for dtypes in DTYPES:
            results = run(deform_conv2d, case, random_problem(case, dtypes[0]), dtypes)
            assert_results_close(results, expected(case, dtypes[0]), case, dtypes)
    print(in_use())


@pytest.mark.parametrize("requested", INSTRUCTION_SETS)
def test_compact_table(requested):
    environment = {
        **os.environ,
        "PADDLE_DCN_INSTRUCTION_SET": requested,
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [
        sys.executable,
        "-c",
        "from tests.kernels.test_instruction_sets import check_table; check_table()",
    ]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    used = process.stdout.splitlines()[-1]
    if INSTRUCTION_SETS.index(used) < INSTRUCTION_SETS.index(requested):
        pytest.skip(f"the best that this processor has is {used}")
    assert used == requested


def test_wrong_name():
    environment = {
        **os.environ,
        "PADDLE_DCN_INSTRUCTION_SET": "AVX2",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-c", "import paddle_dcn"]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    message = (
        f"PADDLE_DCN_INSTRUCTION_SET: expected one of {', '.join(INSTRUCTION_SETS)}, got 'AVX2'"
    )
    assert message in process.stderr
