"""Every script in examples/ runs, in its short mode, in a process and a folder of its own."""

import re

import pytest

from tests.support.process import ROOT, run_python
from tests.support.programs import needs_paddle_3

SCRIPTS = sorted((ROOT / "examples").glob("[!_]*.py"))


@needs_paddle_3
@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_example_runs(script, tmp_path):
    process = run_python(script, "--quick", cwd=tmp_path, MPLBACKEND="agg")
    missing = re.search(r"No module named '(?!paddle)([^']+)'", process.stderr)
    if process.returncode != 0 and missing:
        pytest.skip(f"{script.name} needs {missing[1]}")
    assert process.returncode == 0, process.stdout + process.stderr
    if script.stem == "demo":
        assert "outputs agree" in process.stdout
        (picture,) = re.findall(r"picture.*: (\S+\.png)", process.stdout)
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
