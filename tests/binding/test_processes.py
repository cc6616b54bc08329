"""Threads, forks, two libraries, Control-C, too little memory, the end of a process."""

import runpy

import pytest

from tests.support.process import SCRIPTS, run_python
from tests.support.programs import needs_paddle_3

NAMES = [each.__name__ for each in runpy.run_path(str(SCRIPTS / "processes.py"))["SCENARIOS"]]


@pytest.fixture(scope="module")
def process():
    """One process to which all of it happens."""
    return run_python(SCRIPTS / "processes.py", OMP_NUM_THREADS=2)


@needs_paddle_3
@pytest.mark.parametrize("name", NAMES)
def test_works_on(process, name):
    assert f"{name}: ok" in process.stdout, process.stderr


@needs_paddle_3
def test_ends_while_a_call_runs(process):
    assert process.returncode == 0, process.stderr
