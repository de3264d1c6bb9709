"""A bundle's network as a TensorFlow function: all that it says of a picture in one pass.

The only module outside `training` and `models.architectures` that imports TensorFlow; import it lazily.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf

from models import (
    architectures,  # registers our layers, so that safe mode knows them
    outputs,
)
from models.bundle import Bundle


def traced(bundle: Bundle, network: str) -> Any:
    """Load a network and trace it as a tf.function of uint8 (n, s, s), n free, to a dict of `outputs`."""
    return trace(load_network(bundle, network), bundle.networks[network].input_size)


def load_network(bundle: Bundle, network: str) -> Any:
    """Load a network's Keras model, in safe mode."""
    return keras.saving.load_model(bundle.networks[network].path, compile=False, safe_mode=True)


def trace(model: Any, size: int) -> Any:
    """Trace a Keras model of a bundle as `traced` does; `size` is the side of its pictures."""
    signature = [tf.TensorSpec((None, size, size), tf.uint8)]
    given = set(model.output)

    if given == {architectures.LOGIT, architectures.FEATURES}:  # a region network of its own

        def classify(stack: Any) -> Any:
            out = model(tf.cast(stack, tf.float32)[..., None], training=False)
            return {outputs.PART: out[architectures.LOGIT], outputs.FEATURES: out[architectures.FEATURES]}

        return tf.function(classify, input_signature=signature)

    extra = sorted(
        given & {architectures.PART, architectures.VIEW, architectures.FEATURES, architectures.BOXES}
    )
    names = (architectures.LOGIT, architectures.LOCAL, architectures.ACTIVATION, *extra)
    parts = keras.Model(model.input, [model.get_layer(name).output for name in names])
    attention = architectures.attention_map(model)

    def read(stack: Any) -> Any:
        logits, local, activation, *rest = parts(tf.cast(stack, tf.float32)[..., None], training=False)
        return {
            outputs.LOGIT: logits,
            outputs.ATTENTION: attention(local, activation),
            outputs.LOCAL: local[..., 0],
            **dict(zip(extra, rest, strict=True)),
        }

    return tf.function(read, input_signature=signature)


def save_traced(function: Any, folder: Path) -> None:
    """Write a traced network as a SavedModel, with its outputs named."""
    module = tf.Module()
    module.variables_of = function.get_concrete_function().variables
    # in a function of its own: a traced function is not saved under another's name
    module.serve = tf.function(lambda stack: dict(function(stack)), input_signature=function.input_signature)
    tf.saved_model.save(module, str(folder), signatures=module.serve.get_concrete_function())
