"""The list of protections that are taken out follows the code: `make faults` looks."""

from __future__ import annotations

import pytest

from tests.conftest import ROOT
from tests.faults.removals import REMOVALS, Removal


@pytest.mark.faults
@pytest.mark.parametrize("removal", REMOVALS, ids=[removal.name for removal in REMOVALS])
def test_a_protection_stands_where_the_list_says(removal: Removal) -> None:
    assert (ROOT / removal.file).read_text().count(removal.before) == 1
    file, _, test = removal.test.partition("::")
    name = test.split("::")[-1].partition("[")[0]
    assert f"def {name}(" in (ROOT / file).read_text()
