"""A plain script as a user would write it: one image at a time, ``predict``, Grad-CAM by a second pass.

It loads its models once and uses our decoder and our report, so that only the manner differs. Run by
`bench.compare`: for each line ``FOLDER COUNT`` on standard input it reads that many images.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from bench.reading import BUNDLE, Read, Reader
from models import architectures
from models.bundle import load_bundle
from models.scorer import Reference
from pipeline.preprocess import shrunk
from pipeline.report.render import warm_up
from pipeline.types import Finding
from vocabulary.states import Triage


class Script:
    """The models of a bundle, and a model that also gives the last activation."""

    def __init__(self) -> None:
        self.bundle = load_bundle(BUNDLE)
        self.reader = Reader(self.bundle, None)
        self.reference = Reference.read(self.bundle.reference)
        load = keras.saving.load_model
        self.models = {n: load(kept.path, compile=False) for n, kept in self.bundle.networks.items()}
        self.with_activation = {
            name: keras.Model(
                model.input,
                [
                    model.get_layer(architectures.ACTIVATION).output,
                    model.get_layer(architectures.LOGIT).output,
                ],
            )
            for name, model in self.models.items()
            if name != self.bundle.region_network
        }
        warm_up()

    def read(self, data: bytes) -> None:
        """Read one image, from its bytes to its report."""
        (image,) = self.reader.prepare([data])
        picture = image.inputs[self.bundle.region_input_size][None, ..., None].astype(np.float32)
        said = self.models[self.bundle.region_network].predict(picture, verbose=0)
        logits = said[architectures.LOGIT][0]
        probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        self.reference.distances(said[architectures.FEATURES])
        region = self.bundle.regions[int(probabilities.argmax())]
        everything = dict(zip(self.bundle.regions, map(float, probabilities), strict=True))
        image.finding = Finding(
            region, float(probabilities.max()), everything, None, Triage.NOT_ASSESSABLE, (), ()
        )
        image.reader = self.bundle.model_for(region)
        if image.reader is not None:
            self._look_for_fractures(image)
        self.reader.report(image)

    def _look_for_fractures(self, image: Read) -> None:
        assert image.reader is not None
        network = image.reader.network
        picture = shrunk(
            image.inputs[self.bundle.input_size(network)][None], self.bundle.networks[network].input_size
        )[..., None].astype(np.float32)
        logit = np.asarray(_first(self.models[network].predict(picture, verbose=0))).reshape(-1)[0]
        with tf.GradientTape() as tape:
            activation, out = self.with_activation[network](picture, training=False)
            score = out[:, 0]
        gradient = tape.gradient(score, activation)
        cam = tf.nn.relu(tf.reduce_sum(gradient * activation, axis=-1))[0].numpy()
        self.reader.judge(image, float(logit), cam.astype(np.float16))
        self.reader.explain([image])


def _first(said: Any) -> Any:
    return said[architectures.LOGIT] if isinstance(said, dict) else said


def main() -> None:
    """Load, say so, then work for each line."""
    script = Script()
    warmed = False
    print("ready", flush=True)
    for line in sys.stdin:
        folder, count = line.split()
        files = [path.read_bytes() for path in sorted(Path(folder).iterdir())[: int(count)]]
        if not warmed:
            for data in files[:8]:
                script.read(data)
            warmed = True
            print("warm", flush=True)
        for data in files:
            script.read(data)
        print(len(files), flush=True)


if __name__ == "__main__":
    main()
