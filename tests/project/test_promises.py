"""docs/promises.md says what tests/guards.py checks, and of code and tests that are there."""

import pytest

from tests.guards import GUARDS, table
from tests.support.process import ROOT


def test_the_table_is_in_the_documentation():
    """`python -m tests.guards --table` prints it."""
    assert table() in (ROOT / "docs" / "promises.md").read_text()


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.promise)
def test_the_guard_and_its_test_are_there(guard):
    assert (ROOT / guard.file).read_text().count(guard.text) == 1
    path, _, test = guard.test.partition("::")
    assert f"def {test.partition('[')[0]}(" in (ROOT / path).read_text()
