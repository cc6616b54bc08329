"""Runs trials in worker processes until the time is over; a death or a hang is a failure, too.

Trial number i of a seed is always the same one, whoever runs it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Any

PATIENCE = 60.0  # seconds after which a trial hangs
START = 120.0  # seconds that a worker may take to start
REPORT_EVERY = 1.0  # seconds between a worker's reports
MOST = 20  # failures after which a run ends


@dataclass
class Failure:
    """A trial that failed: where it stands in the run, what it was, and how it failed."""

    number: int
    kind: str
    trial: str
    reason: str
    where: str  # the worker's environment

    def __str__(self) -> str:
        """Return Python that repeats it; for what draws of `tests.fuzz.trials` give."""
        comment = "\n".join(f"# {line}" for line in self.reason.splitlines())
        return (
            f"# Trial {self.number}, {self.kind}, with {self.where}:\n{comment}\n"
            f"from tests.fuzz.trials import *\n{self.trial}.check()\n"
        )


@dataclass
class Outcome:
    """What a run did."""

    counts: Counter = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    seconds: float = 0.0

    def table(self) -> str:
        """Return cases and failures by kind, and their sums."""
        failed = Counter(failure.kind for failure in self.failures)
        rows = [(kind, self.counts[kind], failed[kind]) for kind in sorted(self.counts)]
        rows.append(("all", sum(self.counts.values()), len(self.failures)))
        lines = [f"{'kind':40}{'cases':>10}{'failures':>10}"]
        lines += [f"{kind:40}{cases:10}{failures:10}" for kind, cases, failures in rows]
        return "\n".join(lines)

    def line(self) -> str:
        """Return how far it is."""
        cases = sum(self.counts.values())
        return (
            f"{self.seconds:.0f} s: {cases} cases of {len(self.counts)} kinds, "
            f"{len(self.failures)} failures"
        )


def load_trials() -> Callable:
    """Return what draws trials; Paddle is imported by who calls this."""
    from tests.fuzz import trials

    return trials.draw


def _said(environment: dict[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in environment.items())


def _draw(draw: Callable, seed: str, number: int) -> Any:
    return draw(random.Random(f"{seed}:{number}"))


def _work(load, seed, numbers, environment, current, pipe) -> None:
    """Run trials, of which `current` is the number, and report counts and failures."""
    os.environ.update(environment)
    draw = load()
    counts, failures, reported = Counter(), [], time.monotonic()
    pipe.send(None)  # that it has started
    for number in numbers:
        current.value = number
        trial = _draw(draw, seed, number)
        counts[trial.kind] += 1
        try:
            trial.check()
        except Exception as error:
            expected = isinstance(error, AssertionError)
            reason = str(error) if expected else traceback.format_exc()
            where = _said(environment)
            failures.append(Failure(number, trial.kind, repr(trial), reason, where))
        if failures or time.monotonic() - reported > REPORT_EVERY:
            pipe.send((counts, failures))
            counts, failures, reported = Counter(), [], time.monotonic()


class _Worker:
    """A process that runs every `step`-th trial from a first one on."""

    def __init__(self, context, load, seed: str, first: int, step: int, environment) -> None:
        self.arguments = (context, load, seed)
        self.step, self.environment = step, environment
        self.current = context.Value("q", first, lock=False)
        self.started, self.seen, self.changed = False, first, time.monotonic()
        self.pipe, child = context.Pipe(duplex=False)
        numbers = range(first, 2**62, step)
        self.process = context.Process(
            target=_work, args=(load, seed, numbers, environment, self.current, child), daemon=True
        )
        self.process.start()
        child.close()

    def receive(self) -> tuple[Counter, list[Failure]] | None:
        """Return a report, empty at the start; None if the process is dead."""
        try:
            message = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            return None
        self.started, self.changed = True, time.monotonic()
        return message or (Counter(), [])

    def hangs(self) -> bool:
        """Whether it has been at one trial for too long."""
        if self.current.value != self.seen:
            self.seen, self.changed = self.current.value, time.monotonic()
        limit = PATIENCE if self.started else START
        return time.monotonic() - self.changed > limit

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()
        self.pipe.close()

    def next(self) -> _Worker:
        """Start another in its place, after the trial that it was at."""
        first = self.current.value + self.step
        return _Worker(*self.arguments, first, self.step, self.environment)


def run(
    load: Callable[[], Callable],
    seed: str,
    seconds: float,
    environments: list[dict[str, str]],
    progress: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Run what `load()`, called in each worker, draws from a generator of random numbers.

    It ends early after MOST failures. There is a worker for each of the environments, which are
    variables and their values.
    """
    context = multiprocessing.get_context("spawn")
    outcome, begin = Outcome(), time.monotonic()
    workers = [
        _Worker(context, load, seed, first, len(environments), environment)
        for first, environment in enumerate(environments)
    ]

    def bury(worker: _Worker, reason: str) -> _Worker:
        if not worker.started:
            raise RuntimeError(f"a worker ended before its first trial: {reason}")
        number = worker.current.value
        trial = _draw(load(), seed, number)
        where = _said(worker.environment)
        outcome.counts[trial.kind] += 1
        outcome.failures.append(Failure(number, trial.kind, repr(trial), reason, where))
        return worker.next()

    try:
        while outcome.seconds < seconds and len(outcome.failures) < MOST:
            ready = wait([worker.pipe for worker in workers], timeout=0.5)
            for place, worker in enumerate(workers):
                if worker.pipe in ready:
                    report = worker.receive()
                    if report is None:
                        reason = f"the process died, exit status {worker.process.exitcode}"
                        workers[place] = bury(worker, reason)
                        continue
                    outcome.counts += report[0]
                    outcome.failures += report[1]
                if worker.hangs():
                    worker.stop()
                    workers[place] = bury(worker, "the process hung")
            outcome.seconds = time.monotonic() - begin
            progress(outcome.line())
    finally:
        for worker in workers:
            with contextlib.suppress(OSError):
                worker.stop()
    return outcome
