"""JPEG Lossless and JPEG-LS frames through GDCM, which a bad stream may abort: only for the sandbox."""

from __future__ import annotations

import gdcm


def decode_frame(
    frame: bytes, *, syntax: str, rows: int, columns: int, samples: int, precision: int, photometric: str
) -> bytes:
    """Decode one frame, pixel by pixel, in 8-bit or (above 8 bits of `precision`) little-endian 16-bit words.

    Raises
    ------
    RuntimeError
        GDCM refused, or gave another number of bytes than the picture has.
    """
    size = rows * columns * samples * (1 if precision <= 8 else 2)
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(frame)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetDataElement(element)
    kind = gdcm.PhotometricInterpretation.GetPIType(photometric)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    if samples > 1:
        image.SetPlanarConfiguration(0)
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    allocated = 8 if precision <= 8 else 16
    image.SetPixelFormat(gdcm.PixelFormat(samples, allocated, precision, precision - 1, 0))
    # GDCM's wrapper hands bytes over as a string
    words: bytes = (image.GetBuffer() or "").encode("utf-8", "surrogateescape")
    if len(words) != size:
        raise RuntimeError(f"GDCM gave {len(words)} bytes for {size}")
    return words
