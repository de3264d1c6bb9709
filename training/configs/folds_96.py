"""The folds of `folds.py` at 96 px, with as many pictures as `docs/benchmark.md` gives each architecture.

    export KERAS_BACKEND=torch
    CONFIG=training/configs/folds_96.py
    for n in 1 2 3; do python -m training.reading $CONFIG --fold $n --start WHEEL --processes 1; done
    python -m training.folds $CONFIG

Some 2.5 CPU minutes a fold. Held-out AUC 0.815 (standard deviation 0.020), within parts 0.737 (0.020).
"""  # fmt: skip

from dataclasses import replace

from training.configs import folds
from training.reading_plan import Stage

PLAN = replace(folds.PLAN, name="fold-96", stages=(Stage(3, 96, 3e-4, 1e-6),))
