"""Which engines of the CPU's kernels the tests run, and how."""

import os

from benchmarks.kernel_library import Library
from paddle_dcn import _library

# `make sanitize` takes the time for all of them in every way.
FULL = "PADDLE_DCN_SANITIZE" in os.environ

SHIPPED = Library(_library.PATH)
NATIVE = [engine for engine in SHIPPED.engines() if SHIPPED.runs(engine)]
# What this processor lacks is emulated.
EMULATED = [engine for engine in SHIPPED.engines() if FULL or engine not in NATIVE]
