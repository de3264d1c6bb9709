"""docs/security.md leaves no requirement out, and every test that it names exists."""

from __future__ import annotations

import re
from collections import Counter

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text()
#: Requirements of ASVS 5.0.0 of level 1 and 2, a section each.
LEVEL_2 = {
    "1.1": "1-2", "1.2": "1-9", "1.3": "1-11", "1.4": "1-3", "1.5": "1-2",
    "2.1": "1-3", "2.2": "1-3", "2.3": "1-4", "2.4": "1",
    "3.2": "1-2", "3.3": "1-4", "3.4": "1-6", "3.5": "1-5", "3.7": "1-2",
    "4.1": "1-3", "4.2": "1", "4.3": "1-2", "4.4": "1-4",
    "5.1": "1", "5.2": "1-3", "5.3": "1-2", "5.4": "1-3",
    "6.1": "1-3", "6.2": "1-12", "6.3": "1-4", "6.4": "1-4", "6.5": "1-5", "6.6": "1-3", "6.8": "1-4",
    "7.1": "1-3", "7.2": "1-4", "7.3": "1-2", "7.4": "1-5", "7.5": "1-2", "7.6": "1-2",
    "8.1": "1-2", "8.2": "1-3", "8.3": "1", "8.4": "1",
    "9.1": "1-3", "9.2": "1-4",
    "10.1": "1-2", "10.2": "1-2", "10.3": "1-4", "10.4": "1-11", "10.5": "1-5", "10.6": "1-2", "10.7": "1-3",
    "11.1": "1-2", "11.2": "1-3", "11.3": "1-3", "11.4": "1-4", "11.5": "1", "11.6": "1",
    "12.1": "1-3", "12.2": "1-2", "12.3": "1-4",
    "13.1": "1", "13.2": "1-5", "13.3": "1-2", "13.4": "1-5",
    "14.1": "1-2", "14.2": "1-4", "14.3": "1-3",
    "15.1": "1-3", "15.2": "1-3", "15.3": "1-7",
    "16.1": "1", "16.2": "1-5", "16.3": "1-4", "16.4": "1-3", "16.5": "1-3",
    "17.1": "1", "17.2": "1-4", "17.3": "1-2",
}  # fmt: skip
ROWS = re.findall(r"^\| ([\d., ]+) \| ?(.*?) ?\| (\S+) \| ?(.*?) ?\|$", PAGE, re.MULTILINE)


def test_every_requirement_stands_there_once() -> None:
    wanted = []
    for section, numbers in LEVEL_2.items():
        first, _, last = numbers.partition("-")
        wanted += [f"{section}.{n}" for n in range(int(first), int(last or first) + 1)]
    named = Counter(number for row in ROWS for number in row[0].split(", "))
    assert sorted(named) == sorted(wanted)
    assert set(named.values()) == {1}


def test_every_row_has_a_state_and_what_is_held_names_a_test() -> None:
    for numbers, _, state, by in ROWS:
        assert state in {"held", "built", "partly", "not", "n/a"}, numbers
        if state == "held":
            assert re.search(r"`\w+/\w+\.py(::\w+)?`", by), numbers


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`((?:\w+/)+\w+\.py)(?:::(\w+))?`", PAGE)
    assert len(named) > 60
    for file, function in named:
        path = ROOT / file if (ROOT / file).exists() else ROOT / "tests" / file
        assert path.exists(), file
        if function:
            assert f"def {function}(" in path.read_text(), (file, function)
