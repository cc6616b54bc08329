"""What the benchmarks share."""

import collections
from types import SimpleNamespace

import pytest

from benchmarks import contest


def test_time_in_turn(monkeypatch):
    """All are called before any is timed; who takes long is called less often."""
    now, calls, checked = [0.0], [], []
    monkeypatch.setattr(contest, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    lengths = {"brief": 0.1, "middling": 0.5, "long": 2.0, "longest": 4.0}

    def contestant(name):
        def call():
            calls.append(name)
            now[0] += lengths[name]
            return name.upper()

        return call

    times = contest.time_in_turn(
        {name: contestant(name) for name in lengths},
        lambda *arguments: checked.append(arguments),
        rounds=3,
        slow=1.0,
        warm=2,
    )
    assert times == {name: pytest.approx(1000 * length) for name, length in lengths.items()}
    assert checked == [(name, name.upper()) for name in lengths]
    # Of the brief one, each timed call has one before it.
    assert collections.Counter(calls) == {
        "brief": 2 + 2 * 3,
        "middling": 2 + 3,
        "long": 2 + 2,
        "longest": 1 + 1,
    }
    assert calls[:7] == [*lengths, "brief", "middling", "long"]
