"""Runs Python in a process of its own, in an environment made by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # of the checkout
SCRIPTS = ROOT / "tests" / "scripts"


def start_python(*arguments, cwd=None, **variables) -> subprocess.Popen[str]:
    """Start Python with arguments, in the present environment changed by variables.

    None removes a variable. Modules of the checkout can be imported, unless PYTHONPATH is among
    the variables.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, **variables}
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={name: str(value) for name, value in environment.items() if value is not None},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_python(*arguments, timeout=300, **how) -> subprocess.CompletedProcess[str]:
    """Run Python as `start_python` starts it; return its status and what it printed."""
    with start_python(*arguments, **how) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return subprocess.CompletedProcess(arguments, process.returncode, output, errors)
