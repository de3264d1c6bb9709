"""How a picture's grey values came about: a code a step, and its sentence."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class RenderingCode(StrEnum):
    """Stable codes for the steps by which the grey values of a picture came about.

    `RENDERING` holds the sentence for the person; ``{}`` in it stands for the step's detail.
    """

    VALUES_AS_CODED = "values_as_coded"
    COLOUR_TO_GREY = "colour_to_grey"
    ALPHA_IGNORED = "alpha_ignored"
    SYNTAX_FROM_STREAM = "syntax_from_stream"
    DEPTH_FROM_STREAM = "depth_from_stream"
    COLOUR_FROM_STREAM = "colour_from_stream"
    SIGN_FROM_STREAM = "sign_from_stream"
    BYTES_SWAPPED = "bytes_swapped"
    SURPLUS_IGNORED = "surplus_ignored"
    COMMA_REPAIRED = "comma_repaired"
    VALUE_DROPPED = "value_dropped"
    MODALITY_LUT = "modality_lut"
    RESCALE = "rescale"
    VOI_LUT = "voi_lut"
    HEADER_WINDOW = "header_window"
    PERCENTILE_WINDOW = "percentile_window"
    WINDOW_REPLACED = "window_replaced"
    CONTRAST_RAISED = "contrast_raised"
    PADDING_BLACK = "padding_black"
    PADDING_IGNORED = "padding_ignored"
    MONOCHROME1 = "monochrome1"
    INVERTED = "inverted"
    ORIENTATION = "orientation"
    SQUARE_PIXELS = "square_pixels"


RENDERING: Mapping[RenderingCode, str] = {
    RenderingCode.VALUES_AS_CODED: "The grey values are those of the file.",
    RenderingCode.COLOUR_TO_GREY: "Grey was made from the colours of the file.",
    RenderingCode.ALPHA_IGNORED: "The file's transparency was left out: it hides the picture.",
    RenderingCode.SYNTAX_FROM_STREAM: "The picture data are coded otherwise than stated: {}.",
    RenderingCode.DEPTH_FROM_STREAM: "The picture data have another depth than stated: {} bits.",
    RenderingCode.COLOUR_FROM_STREAM: "The colours are coded otherwise than stated: {}.",
    RenderingCode.SIGN_FROM_STREAM: "The values were read {}, as the picture data state it.",
    RenderingCode.BYTES_SWAPPED: "The two bytes of each value stood the wrong way round.",
    RenderingCode.SURPLUS_IGNORED: "Bytes behind the picture were left out.",
    RenderingCode.COMMA_REPAIRED: "A decimal comma in the header was read as a point: {}.",
    RenderingCode.VALUE_DROPPED: "A header value that cannot be read was left out: {}.",
    RenderingCode.MODALITY_LUT: "Modality LUT of the header.",
    RenderingCode.RESCALE: "Rescale slope and intercept of the header.",
    RenderingCode.VOI_LUT: "VOI LUT {} of the header.",
    RenderingCode.HEADER_WINDOW: "Window {} of the header.",
    RenderingCode.PERCENTILE_WINDOW: "Window from the grey values themselves: the header has none of use.",
    RenderingCode.WINDOW_REPLACED: "Window from the grey values themselves: the header's hides most of them.",
    RenderingCode.CONTRAST_RAISED: "The grey levels were spread, since the file uses only a part of them.",
    RenderingCode.PADDING_BLACK: "Padding shown black.",
    RenderingCode.PADDING_IGNORED: "The header's padding value stands in the picture itself: ignored.",
    RenderingCode.MONOCHROME1: "Inverted, because low values are bright (MONOCHROME1).",
    RenderingCode.INVERTED: "Inverted, because the background was white.",
    RenderingCode.ORIENTATION: "Turned upright, as the file says ({}).",
    RenderingCode.SQUARE_PIXELS: "Resampled to square pixels ({}).",
}
