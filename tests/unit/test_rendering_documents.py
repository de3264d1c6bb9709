"""How a picture came about is told from what the database kept of it."""

from pipeline.types import RenderingStep
from vocabulary.rendering import RenderingCode
from web.contract.images import RenderingStep as Told


def test_every_step_is_told_from_its_stored_form() -> None:
    kept = [{"code": code.value, "detail": "x"} for code in RenderingCode]
    told = Told.each(kept)
    assert [each.code for each in told] == list(RenderingCode)
    assert [each.sentence for each in told] == [RenderingStep(code, "x").sentence for code in RenderingCode]
