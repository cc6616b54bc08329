"""The sanitizers and the emulations find what they are there for."""

import os
import shutil

import pytest

from benchmarks.kernel_library import KERNELS
from tests.kernels.faults import FAULTS, found

# The quickest; `make sanitize` seeds all.
SOME = FAULTS if "PADDLE_DCN_SANITIZE" in os.environ else FAULTS[:1]


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.what for fault in FAULTS])
def test_there_is_what_a_fault_changes(fault):
    assert fault.text in (KERNELS / fault.file).read_text()


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ was not found")
@pytest.mark.parametrize("fault", SOME, ids=[fault.what for fault in SOME])
def test_a_seeded_fault_is_found(fault):
    assert found(fault)
