"""Trials that fail and end their process, to test the runner with."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Fake:
    """A trial that does what its number says."""

    number: int
    kind: str = "fake"

    def check(self):
        """Pass, fail, or end the process."""
        if self.number == 3:
            os._exit(9)
        assert self.number != 5, "wrong"


def load():
    """Return what draws fakes."""
    return lambda rng: Fake(rng.randint(0, 7))
