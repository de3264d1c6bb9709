"""MURA v1.1 as published: EfficientNetB1 at 224 from ImageNet weights, seven regions, abnormal or not.

    fractureai datasets split MURA-v1.1 --out runs/mura/split.csv --shares 0.9 0.1 0 --leave-out-crossing
    fractureai train training/configs/mura.py --data MURA-v1.1

Never run: neither MURA nor EfficientNetB1's ImageNet weights could be had where this was written. So there is
no score and no duration, and no setting was found by experiment. The same way, with small networks, is run on
phantoms laid out as MURA is by `mura_phantoms.py`. The first command is optional: the second makes the same
file where there is none. The published `valid` is the test part; stopping, calibration and thresholds use a
tenth of the train patients. Pictures are kept decoded below `runs/cache`, about 5 GB.
"""  # fmt: skip

from pathlib import Path

from training.datasets import SplitPlan
from training.datasets.mura import REGIONS
from training.experiment import DatasetPlan, Experiment, NetworkPlan
from training.fit import Schedule

SIZE = 224

EXPERIMENT = Experiment(
    name="mura",
    dataset=DatasetPlan(Path("MURA-v1.1"), "mura"),
    split=SplitPlan({"train": 0.9, "val": 0.1}, leave_out_crossing=True),
    region=NetworkPlan(
        "region",
        "efficientnet_b1",
        SIZE,
        REGIONS,
        Schedule(4, 32_000, rate=3e-4, frozen_epochs=1, batch=32, average=0.995, patience=2),
        seed=1,
        weights="imagenet",
        phantom_share=0.0,
    ),
    fracture=(
        NetworkPlan(
            "pooled",
            "efficientnet_b1",
            SIZE,
            REGIONS,
            # no outlines in MURA: the label alone teaches
            Schedule(
                12, 32_000, rate=3e-4, frozen_epochs=1, batch=32, average=0.998, local_weight=0.0, patience=3
            ),
            seed=2,
            weights="imagenet",
            phantom_share=0.0,
        ),
        *(
            NetworkPlan(
                region,
                "efficientnet_b1",
                SIZE,
                (region,),
                Schedule(3, 6_400, rate=6e-5, batch=32, average=0.995, local_weight=0.0, patience=2),
                seed=seed,
                start_from="pooled",
                phantom_share=0.0,
            )
            for seed, region in enumerate(REGIONS, 3)
        ),
    ),
    readers={region: region for region in REGIONS},
    phantoms=0,
    unknown=(),
)
