"""Names of what a bundle's traced networks give out; nothing here imports TensorFlow."""

from __future__ import annotations

#: Logits of the regions (n, R), before a softmax.
PART = "part"
#: Logits of each region being in view (n, V).
VIEW = "view"
#: Features that the distance to the training data is measured in (n, d).
FEATURES = "features"
#: Fracture logits, a head a column (n, heads).
LOGIT = "logit"
#: Attention maps, a head a channel (n, h, w, heads).
ATTENTION = "attention"
#: Fracture logits cell by cell (n, h, w).
LOCAL = "local"
#: Boxes that cells draw around a fracture (n, h, w, 5), see `pipeline.boxes.drawn_places`.
BOXES = "boxes"
#: What a backend must say of the self-test images as the bundle's own network does.
CHECKED = frozenset({PART, LOGIT, BOXES})
