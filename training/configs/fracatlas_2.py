"""One EfficientNetB1 trunk (ReLU6, from EfficientNet-Lite1) for parts, refusals and fractures."""

from training.experiment import ROOT
from training.reading_plan import ReadingPlan, Stage

PLAN = ReadingPlan(
    name="fracatlas-2",
    architecture="efficientnet_b1_relu6",
    variant="b1",
    split=ROOT / "training" / "splits" / "fracatlas.csv",
    stages=(Stage(9, 224, 3e-4, 4e-5), Stage(2, 320, 6e-5, 1e-6)),
    seed=1,
    draws=1600,
    frozen=("stem", "block1", "block2"),
)
