"""Three networks, each without a third of the films and without one kind of picture to refuse.

    export KERAS_BACKEND=torch
    for n in 1 2 3; do python -m training.reading training/configs/folds.py --fold $n --start WHEEL; done
    python -m training.folds training/configs/folds.py

They tell how figures spread over folds, and how a trunk takes a kind that it never saw. A small recipe, some
35 CPU minutes a fold: what ships was fitted for longer, at 320 px.
"""  # fmt: skip

from training.experiment import ROOT
from training.reading_plan import ReadingPlan, Stage

PLAN = ReadingPlan(
    name="fold",
    architecture="efficientnet_b1_relu6",
    variant="b1",
    split=ROOT / "training" / "splits" / "fracatlas.csv",
    stages=(Stage(12, 224, 3e-4, 1e-6),),
    seed=3,
    draws=1600,
    frozen=("stem", "block1", "block2"),
    folds=("chest", "spine", "no radiograph"),
)
