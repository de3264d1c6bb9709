"""Seven regions from phantoms whose fractures are outlined: one of two bundles to compare.

    fractureai phantoms runs/seven --count 2800 --size 320 --labels \
        --regions elbow finger forearm hand humerus shoulder wrist
    fractureai train training/configs/seven_regions.py --data runs/seven --out runs/bundles

Ten CPU minutes. On held-out phantoms (validation, 10%) the fracture network's AUC is 0.926; that says nothing
of real radiographs.
"""

from pathlib import Path

from training.datasets import SplitPlan
from training.datasets.mura import REGIONS
from training.experiment import DatasetPlan, Experiment, NetworkPlan
from training.fit import Schedule

MOBILENET = "mobilenet_v2_0.35_224_notop.weights.h5"

EXPERIMENT = Experiment(
    name="seven-outlines",
    dataset=DatasetPlan(Path("seven"), "phantoms"),
    split=SplitPlan({"train": 0.8, "val": 0.1, "test": 0.1}),
    region=NetworkPlan(
        "region",
        "mobilenet_v2_0.35",
        224,
        REGIONS,
        Schedule(3, 2240, rate=4e-4, frozen_epochs=1, batch=32, average=0.97),
        seed=1,
        weights=MOBILENET,
        phantom_share=1.0,
    ),
    fracture=(
        NetworkPlan(
            "pooled",
            "mobilenet_v2_0.35",
            224,
            REGIONS,
            Schedule(5, 2240, rate=6e-4, frozen_epochs=1, batch=16, average=0.99, local_weight=1.0),
            seed=2,
            weights=MOBILENET,
            phantom_share=1.0,
        ),
    ),
    readers=dict.fromkeys(REGIONS, "pooled"),
    phantoms=0,
    unknown=(),
)
