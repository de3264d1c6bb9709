"""A bundle's network as a TensorFlow function: logit and attention map in one pass.

The only module outside `training` and `models.architectures` that imports TensorFlow; import it lazily.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf

from models import architectures  # registers our layers, so that safe mode knows them
from models.bundle import Bundle


def traced(bundle: Bundle, network: str) -> Any:
    """Load a network and trace it as a tf.function of uint8 (n, s, s), n free."""
    kept = bundle.networks[network]
    model = keras.saving.load_model(kept.path, compile=False, safe_mode=True)
    signature = [tf.TensorSpec((None, kept.input_size, kept.input_size), tf.uint8)]

    if network == bundle.region_network:

        def classify(stack: Any) -> Any:
            out = model(tf.cast(stack, tf.float32)[..., None], training=False)
            return out[architectures.LOGIT], out[architectures.FEATURES]

        return tf.function(classify, input_signature=signature)

    names = (architectures.LOGIT, architectures.LOCAL, architectures.ACTIVATION)
    parts = keras.Model(model.input, [model.get_layer(name).output for name in names])

    attention = architectures.attention_map(model)

    def detect(stack: Any) -> Any:
        logits, local, activation = parts(tf.cast(stack, tf.float32)[..., None], training=False)
        return logits, attention(local, activation)

    return tf.function(detect, input_signature=signature)


def save_traced(function: Any, folder: Path) -> None:
    """Write a traced network as a SavedModel, with its outputs named by their order."""
    module = tf.Module()
    module.variables_of = function.get_concrete_function().variables
    module.serve = tf.function(
        lambda stack: dict(zip(("first", "second"), function(stack), strict=True)),
        input_signature=function.input_signature,
    )
    tf.saved_model.save(module, str(folder), signatures=module.serve.get_concrete_function())
