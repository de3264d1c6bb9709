"""What the receiver negotiates: SOP classes, each with the transfer syntaxes that the decoder reads."""

from __future__ import annotations

from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from vocabulary.dicom import RETURNED_CLASSES, TAKEN_CLASSES

#: Storage Commitment Push Model.
COMMITMENT = "1.2.840.10008.1.20.1"
UNCOMPRESSED = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2")
#: Of pictures, in the order of our preference: what needs no decoder comes first (PS3.5, 10 and A).
PICTURE_SYNTAXES = (
    *UNCOMPRESSED,
    "1.2.840.10008.1.2.1.99",  # Deflated Explicit VR Little Endian
    "1.2.840.10008.1.2.4.70",  # JPEG Lossless, first-order prediction
    "1.2.840.10008.1.2.4.57",  # JPEG Lossless
    "1.2.840.10008.1.2.4.80",  # JPEG-LS Lossless
    "1.2.840.10008.1.2.4.90",  # JPEG 2000 Lossless
    "1.2.840.10008.1.2.4.201",  # High-Throughput JPEG 2000 Lossless
    "1.2.840.10008.1.2.4.202",  # the same with RPCL
    "1.2.840.10008.1.2.5",  # RLE Lossless
    "1.2.840.10008.1.2.4.50",  # JPEG Baseline
    "1.2.840.10008.1.2.4.51",  # JPEG Extended
    "1.2.840.10008.1.2.4.81",  # JPEG-LS Near-lossless
    "1.2.840.10008.1.2.4.91",  # JPEG 2000
    "1.2.840.10008.1.2.4.203",  # High-Throughput JPEG 2000
)


def receiver_contexts() -> list[PresentationContext]:
    """Return the presentation contexts that the receiver supports; it refuses every other by its class."""
    pictures = [build_context(uid, list(PICTURE_SYNTAXES)) for uid in TAKEN_CLASSES]
    returned = [build_context(uid, list(UNCOMPRESSED)) for uid in RETURNED_CLASSES]
    # an archive that answers a request of ours calls as the provider of that service
    commitment = build_context(COMMITMENT, list(UNCOMPRESSED))
    commitment.scu_role, commitment.scp_role = False, True
    return [build_context(Verification, list(UNCOMPRESSED)), commitment, *pictures, *returned]
