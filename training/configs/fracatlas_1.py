"""The first shipped bundle."""

from training.experiment import OTHER, ROOT, Experiment, NetworkPlan
from training.fit import Schedule

REGIONS = ("hand", "hip", "leg", "shoulder")
SIZE = 320
MOBILENET = "mobilenet_v2_1.0_224_notop_int8dequant.weights.h5"

EXPERIMENT = Experiment(
    name="fracatlas-1",
    split=ROOT / "training" / "splits" / "fracatlas.csv",
    region=NetworkPlan(
        "region",
        "mobilenet_v2_0.35",
        224,
        (*REGIONS, OTHER),
        Schedule(6, 2400, rate=4e-4, frozen_epochs=1, batch=32, average=0.97),
        seed=2,
        weights="mobilenet_v2_0.35_224_notop.weights.h5",
        phantom_share=0.2,
    ),
    fracture=(
        NetworkPlan(
            "pooled",
            "mobilenet_v2",
            SIZE,
            REGIONS,
            Schedule(
                10, 2400, rate=3e-4, frozen_epochs=1, batch=16, average=0.995, train_from="block_6_expand"
            ),
            seed=1,
            weights=MOBILENET,
        ),
        *(
            NetworkPlan(
                region,
                "mobilenet_v2",
                SIZE,
                (region,),
                Schedule(1, 1200, rate=6e-5, batch=16, average=0.97, train_from="block_6_expand"),
                seed=seed,
                start_from="pooled",
            )
            for seed, region in ((3, "hand"), (4, "leg"))
        ),
    ),
    readers={"hand": "hand", "hip": "pooled", "leg": "leg", "shoulder": "pooled"},
)
