"""Fuzzes kernels and public entries for some time: `python -m tests.fuzz --seconds 600`."""

from __future__ import annotations

import argparse
import os
import random
import sys
import time

from tests.fuzz import runner


def environments(workers: int) -> list[dict[str, str]]:
    """Return a worker's environment for each; the operator runs on each of the engines."""
    from tests.fuzz.trials import ENGINES

    return [
        {"PADDLE_DCN_INSTRUCTION_SET": ENGINES[-1 - worker % len(ENGINES)]}
        for worker in range(max(workers, len(ENGINES)))
    ]


def main() -> int:
    """Run; the exit status is 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", default=str(random.SystemRandom().randrange(10**6)))
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    print(f"seed {options.seed}", flush=True)
    terminal, last = sys.stdout.isatty(), time.monotonic()

    def progress(line: str) -> None:
        nonlocal last
        if terminal:
            print(f"\r{line}", end="", flush=True)
        elif time.monotonic() - last > 10:
            last = time.monotonic()
            print(line, flush=True)

    outcome = runner.run(
        runner.load_trials,
        options.seed,
        options.seconds,
        environments(options.workers),
        progress,
    )
    print("\n" if terminal else "", end="")
    for failure in outcome.failures:
        print(failure)
    print(outcome.table())
    print(f"seed {options.seed}, {outcome.line()}")
    return 1 if outcome.failures or not outcome.counts else 0


if __name__ == "__main__":
    sys.exit(main())
