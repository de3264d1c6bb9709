"""Seven regions from phantoms laid out as MURA is: the whole way from such a folder to a bundle.

    fractureai phantoms runs/mura-phantoms --layout mura --count 1050 --size 96 --fracture-share 0.4
    fractureai train training/configs/mura_phantoms.py --data runs/mura-phantoms

Seven CPU minutes (19 on two very busy cores). On the valid part as published, 157 images: region accuracy
0.981 (0.955-1.000), abnormal AUC 0.489 (0.391-0.600): a custom CNN from random weights learns the regions
and, from labels alone, nothing of the breaks. It shows that the way is whole, not that it reads well;
`tests/worker/test_seven_regions.py` goes the same way, smaller, and has the service read with the bundle.
"""  # fmt: skip

from pathlib import Path

from training.datasets import SplitPlan
from training.datasets.mura import REGIONS
from training.experiment import DatasetPlan, Experiment, NetworkPlan
from training.fit import Schedule

EXPERIMENT = Experiment(
    name="mura-phantoms",
    dataset=DatasetPlan(Path("mura-phantoms"), "mura"),
    split=SplitPlan({"train": 0.8, "val": 0.2}, leave_out_crossing=True),
    region=NetworkPlan(
        "region",
        "custom_cnn",
        96,
        REGIONS,
        Schedule(8, 960, rate=2e-3, batch=32, average=0.9),
        seed=1,
        phantom_share=0.0,
    ),
    fracture=(
        NetworkPlan(
            "pooled",
            "custom_cnn",
            96,
            REGIONS,
            # no outlines in MURA: the label alone teaches
            Schedule(8, 960, rate=2e-3, batch=32, average=0.9, local_weight=0.0),
            seed=2,
            phantom_share=0.0,
        ),
    ),
    readers=dict.fromkeys(REGIONS, "pooled"),
    phantoms=0,
    unknown=(),
    min_probability=0.3,
)
