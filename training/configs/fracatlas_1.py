"""The first shipped bundle: MobileNetV2 with the outlines of fractures as a second target.

    python -m training.train training/configs/fracatlas_1.py

About an hour on two idle cores (35 CPU minutes for the pooled network, 3 for the region network, 2 each for
hand and leg, 3 to calibrate and measure). Test part: fracture AUC 0.924 (0.891-0.955), region accuracy 0.985,
ECE 0.026; the peak of the attention map lies in a fracture's outline in 49% (chance 0.5%).

Validation AUC of the pooled network: 0.905 after 4 epochs, 0.941 after 9, 0.939 at the end (averaged
weights); its loss was still falling. Fine-tuned for one region: hand 0.918 against 0.919 pooled, leg 0.943
against 0.938.
The shipped pooled run was planned for 15 epochs and cut to 10 after the fourth, so that its first four had a
slightly higher learning rate than this file gives them.
"""  # fmt: skip

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
    tried=(
        "Fracture networks for one region, one epoch on from the pooled one: validation AUC 0.918 against "
        "0.919 for the hand, 0.943 against 0.938 for the leg; kept, since not worse.",
        "Grad-CAM with its gradient averaged over cells: it peaked in the outline in 2% of fractured images.",
    ),
    readers={"hand": "hand", "hip": "pooled", "leg": "leg", "shoulder": "pooled"},
)
