"""Why a file, an image or a batch is as it is: reasons and flags, each with its sentence."""

from __future__ import annotations

from collections.abc import Iterable

from store.base.errors import ServiceError
from vocabulary.reasons import REASONS
from vocabulary.reasons import Reason as Code
from web.contract.base import Document


class Reason(Document):
    """Why an image or a study was not read, and what to do next."""

    code: Code
    sentence: str
    advice: str

    @classmethod
    def of(cls, code: str | None) -> Reason | None:
        """Return the reason of a code; None for none."""
        if not code:
            return None
        said = REASONS[Code(code)]
        return cls(code=code, sentence=said.sentence, advice=said.advice)


class Flag(Document):
    """What a person must know of an image."""

    code: Code
    sentence: str

    @classmethod
    def each(cls, codes: Iterable[str]) -> list[Flag]:
        """Return flags with their sentences."""
        return [cls(code=code, sentence=REASONS[Code(code)].sentence) for code in codes]


class Trouble(Document):
    """Why a batch does not go on, or could not be completed."""

    code: str
    sentence: str
    advice: str

    @classmethod
    def of(cls, error: ServiceError | type[ServiceError], *, advice: str = "", detail: str = "") -> Trouble:
        """Return an error as what a batch waits for or ended by."""
        sentence = f"{error.title} ({detail})" if detail else error.title
        return cls(code=error.code, sentence=sentence, advice=advice or error.advice)
