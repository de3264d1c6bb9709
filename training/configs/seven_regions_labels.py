"""`seven_regions` without its outlines: what they are worth. The rest is the same, seeds too.

    fractureai train training/configs/seven_regions_labels.py --data runs/seven --out runs/bundles

Wants the phantoms that `seven_regions.py` names. Seven CPU minutes. On held-out phantoms (validation, 10%)
the fracture network's AUC is 0.731, beside 0.926 with outlines; that says nothing of real radiographs.
"""

from dataclasses import replace

from training.configs.seven_regions import EXPERIMENT as OUTLINED

POOLED = OUTLINED.fracture[0]

EXPERIMENT = replace(
    OUTLINED,
    name="seven-labels",
    fracture=(replace(POOLED, schedule=replace(POOLED.schedule, local_weight=0.0)),),
)
