"""Five epochs at 448 px, boxes learned along, from the network of the shipped bundle.

    KERAS_BACKEND=torch python -m training.reading training/configs/boxes_448.py \\
        --start models/bundles/fracatlas-3/reading.keras --processes 1

Most originals of FracAtlas have a long side of 454 px: at 448 px next to nothing of them is lost, and a
fracture is 21 px wide in place of 15. The later stages of the trunk learn what the boxes need.
"""  # fmt: skip

from training.experiment import ROOT
from training.reading_plan import ReadingPlan, Stage

PLAN = ReadingPlan(
    name="boxes-448",
    architecture="efficientnet_b1_relu6",
    variant="b1",
    split=ROOT / "training" / "splits" / "fracatlas.csv",
    stages=(Stage(5, 448, 1.2e-4, 1e-6),),
    seed=4,
    draws=1600,
    frozen=("stem", "block1", "block2"),
    boxes_weight=1.0,
)
