"""The pooled network of fracatlas-1 at 224 px instead of 320: worse, and not shipped.

    python -m training.train training/configs/fracatlas_224.py --out /tmp/bundles

Two CPU minutes after the pooled network is there. Validation AUC 0.927 (0.915 before the two epochs at this
size); the network that it starts from: 0.939.
"""  # fmt: skip

from dataclasses import replace

from training.configs.fracatlas_1 import EXPERIMENT as SHIPPED
from training.experiment import NetworkPlan
from training.fit import Schedule

POOLED = SHIPPED.fracture[0]
SMALL = NetworkPlan(
    "small",
    POOLED.architecture,
    224,
    POOLED.regions,
    Schedule(2, 1200, rate=1e-4, batch=16, average=0.98, train_from="block_6_expand"),
    seed=3,
    weights=POOLED.weights,
    start_from=POOLED.name,
    phantom_share=0.0,
)

EXPERIMENT = replace(
    SHIPPED,
    name="fracatlas-224",
    fracture=(POOLED, SMALL),
    readers=dict.fromkeys(SHIPPED.readers, SMALL.name),
    tried=(),
)
