"""Runs Python in a process of its own, in an environment made by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # of the checkout
SCRIPTS = ROOT / "tests" / "scripts"


def environment_with(**changes) -> dict[str, str]:
    """Return the present environment with changes, of which None removes a variable.

    Modules of the checkout can be imported, unless PYTHONPATH is among the changes.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    merged = {**os.environ, "PYTHONPATH": path, **changes}
    return {name: str(value) for name, value in merged.items() if value is not None}


def run_python(*arguments, cwd=None, timeout=300, **changes) -> subprocess.CompletedProcess[str]:
    """Run Python with arguments in `environment_with` changes; return its status and texts."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=environment_with(**changes),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
