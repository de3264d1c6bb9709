"""The list of protections that can be taken out is true of the code: what each names is there, once."""

from __future__ import annotations

import pytest

from tests.faults.removals import REMOVALS, ROOT, Removal


@pytest.mark.parametrize("removal", REMOVALS, ids=lambda removal: removal.name)
def test_what_is_to_be_taken_out_is_there(removal: Removal) -> None:
    assert (ROOT / removal.file).read_text().count(removal.before) == 1
    assert removal.before != removal.after
    file, *_, name = removal.test.split("::")
    assert f"def {name.partition('[')[0]}(" in (ROOT / file).read_text()
