"""What the benchmarks share."""

import collections
from types import SimpleNamespace

import pytest

from benchmarks import contest


def test_time_in_turn(monkeypatch):
    """All are called before any is timed; who takes long is called less often."""
    now, calls, checked = [0.0], [], []
    monkeypatch.setattr(contest, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    lengths = {"brief": 0.1, "middling": 0.5, "long": 2.0, "longest": 13.0}

    def contestant(name):
        def call():
            calls.append(name)
            # Of all but the brief one the first two calls take a second more.
            now[0] += lengths[name] + (name != "brief" and calls.count(name) < 3)
            return name.upper()

        return call

    def timed(**options):
        now[0] = 0.0
        calls.clear()
        return contest.time_in_turn(
            {name: contestant(name) for name in lengths},
            lambda *arguments: checked.append(arguments),
            rounds=3,
            slow=1.6,
            **options,
        )

    found = timed(choose=min)
    assert found == {
        name: pytest.approx(1000 * (lengths[name] + (name == "longest"))) for name in lengths
    }
    assert checked == [(name, name.upper()) for name in lengths]
    assert collections.Counter(calls) == {
        "brief": 1 + 2 * 3,
        "middling": 4,
        "long": 3,
        "longest": 2,
    }
    assert calls[:6] == [*lengths, "brief", "brief"]
    assert timed()["long"] == pytest.approx(2500)  # the median of 3 and 2 seconds
