"""Which elements of a DICOM header make a study urgent: ``0040,1003=HIGH``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from store.base.errors import ServiceError

_RULE = re.compile(r"\(?([0-9A-Fa-f]{4}),([0-9A-Fa-f]{4})\)?\s*=\s*(\S.{0,63})")
#: The group of what identifies the patient: a rule would lay it down in the database.
_PATIENT = 0x0010


class InvalidUrgentRule(ServiceError):
    """A rule for urgent studies is not one, or names an element of the patient."""

    code, status = "invalid_urgent_rule", 422
    title = "A rule for urgent studies is written like 0040,1003=HIGH."
    advice = "Name an element of the header by group and element, and its value; none of group 0010."


@dataclass(frozen=True)
class UrgentRule:
    """Objects whose element `tag` has this value are urgent, in whatever case it is written."""

    tag: int
    value: str

    @classmethod
    def parse(cls, text: str) -> UrgentRule:
        """Read a rule. Raises `InvalidUrgentRule`."""
        found = _RULE.fullmatch(text.strip())
        if found is None or int(found[1], 16) in {0x0000, 0x0002, _PATIENT} or int(found[1], 16) >= 0x7FE0:
            raise InvalidUrgentRule(text[:80])
        return cls(int(found[1] + found[2], 16), found[3].strip())

    def applies(self, header: Mapping[int, str]) -> bool:
        """Tell whether a header has it; of several values one suffices."""
        values = header.get(self.tag, "").upper().split("\\")
        return self.value.upper() in {value.strip() for value in values}
