"""The sanitizers and the emulations find what they are there for."""

import os
import shutil

import pytest

from tests.kernels.faults import FAULTS, found

# The quickest; `make sanitize` seeds all.
SOME = FAULTS if "PADDLE_DCN_SANITIZE" in os.environ else FAULTS[:1]


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ was not found")
@pytest.mark.parametrize("fault", SOME, ids=[fault.what for fault in SOME])
def test_a_seeded_fault_is_found(fault):
    assert found(fault)
