"""The table of cases leads through every path that it names."""

import pytest

from tests.support.cases import COMPACT, PATHS, TABLE


@pytest.mark.parametrize("path", PATHS)
def test_a_compact_case_leads_through(path):
    assert any(path in case.paths for case in COMPACT)


def test_ids_are_unique():
    assert len({str(case) for case in TABLE}) == len(TABLE)
