"""One EfficientNetB1 trunk (ReLU6, from EfficientNet-Lite1) for parts, refusals and fractures.

    KERAS_BACKEND=torch python -m training.reading training/configs/fracatlas_2.py --start WHEEL --processes 2

Validation after nine epochs at 224 px: AUC 0.908, within parts 0.843; after four more at 320 px: 0.940 and
0.885, and still rising. An hour of two cores.
"""  # fmt: skip

from training.experiment import ROOT
from training.reading_plan import ReadingPlan, Stage

PLAN = ReadingPlan(
    name="fracatlas-2",
    architecture="efficientnet_b1_relu6",
    variant="b1",
    split=ROOT / "training" / "splits" / "fracatlas.csv",
    stages=(Stage(9, 224, 3e-4, 4e-5), Stage(4, 320, 1.2e-4, 1e-6)),
    seed=1,
    draws=1600,
    frozen=("stem", "block1", "block2"),
)
