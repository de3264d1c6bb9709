"""The fracture network of `seven_regions` at 320 px instead of 224: what more pixels are worth.

    fractureai train training/configs/seven_regions_320.py --data runs/seven --out runs/bundles

Wants the phantoms that `seven_regions.py` names.
"""

from dataclasses import replace

from training.configs.seven_regions import EXPERIMENT as SMALLER

POOLED = SMALLER.fracture[0]

EXPERIMENT = replace(
    SMALLER,
    name="seven-320",
    fracture=(replace(POOLED, size=320, seed=3, schedule=replace(POOLED.schedule, epochs=8)),),
)
