"""More epochs at 320 px from the network of an earlier bundle, with other draws.

    KERAS_BACKEND=torch python -m training.reading training/configs/fracatlas_3.py --start B/reading.keras

B is the bundle of `fracatlas_2.py`. On validation the AUC rose from 0.940 to 0.949, within parts from 0.885
to 0.910, in an hour and a half of two cores that other work shared.
"""  # fmt: skip

from training.experiment import ROOT
from training.reading_plan import ReadingPlan, Stage

PLAN = ReadingPlan(
    name="fracatlas-3",
    architecture="efficientnet_b1_relu6",
    variant="b1",
    split=ROOT / "training" / "splits" / "fracatlas.csv",
    stages=(Stage(16, 320, 1.5e-4, 1e-6),),
    seed=2,
    draws=1600,
    frozen=("stem", "block1", "block2"),
)
