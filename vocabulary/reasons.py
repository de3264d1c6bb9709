"""Why an image was rejected, not assessed or flagged: a stable code, its sentence, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Stable codes for why an input was refused, not read, flagged, or failed.

    The same code stands in the API, the page, the CSV, the PDF and the log.
    `REASONS` holds the sentence for the person and what to do next.
    """

    # rejected: the input is unusable
    EMPTY_FILE = "empty_file"
    NOT_AN_IMAGE = "not_an_image"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    TOO_SMALL = "too_small"
    TOO_LARGE = "too_large"
    FILE_TOO_LARGE = "file_too_large"
    TOO_EXPENSIVE_TO_DECODE = "too_expensive_to_decode"
    TIFF_PIXEL_FORMAT = "tiff_pixel_format"
    UNSUPPORTED_CODING = "unsupported_coding"
    ANIMATED = "animated"
    NOT_A_RADIOGRAPH = "not_a_radiograph"
    DUPLICATE_IN_STUDY = "duplicate_in_study"
    DICOM_UNSUPPORTED_CLASS = "dicom_unsupported_class"
    DICOM_UNSUPPORTED_SYNTAX = "dicom_unsupported_syntax"
    DICOM_MULTIFRAME = "dicom_multiframe"
    DICOM_NO_PIXELS = "dicom_no_pixels"
    DICOM_CORRUPT = "dicom_corrupt"
    DICOM_CONTRADICTION = "dicom_contradiction"
    DICOM_NO_PHOTOMETRIC = "dicom_no_photometric"
    DICOM_PIXEL_FORMAT = "dicom_pixel_format"
    BURNED_IN_ANNOTATION = "burned_in_annotation"
    ARCHIVE_ENCRYPTED = "archive_encrypted"
    ARCHIVE_NESTED = "archive_nested"
    ARCHIVE_CORRUPT = "archive_corrupt"
    ARCHIVE_UNSAFE_PATH = "archive_unsafe_path"
    ARCHIVE_LINK = "archive_link"
    ARCHIVE_BOMB = "archive_bomb"
    ARCHIVE_TOO_MANY = "archive_too_many"
    ARCHIVE_UNSUPPORTED = "archive_unsupported"
    SOURCE_CHANGED = "source_changed"
    # skipped: not images of ours, counted and not failed
    DICOM_NOT_AN_IMAGE = "dicom_not_an_image"
    MADE_HERE = "made_here"
    # not assessable: done, but not read by AI
    REGION_UNSUPPORTED = "region_unsupported"
    REGION_UNSURE = "region_unsure"
    UNFAMILIAR_IMAGE = "unfamiliar_image"
    STUDY_INCOMPLETE = "study_incomplete"
    TOO_LITTLE_CONTRAST = "too_little_contrast"
    # flags: read, but a person must know
    REGION_CONTRADICTS_HEADER = "region_contradicts_header"
    SEVERAL_REGIONS = "several_regions"
    BURNED_IN_FLAG = "burned_in_flag"
    SOP_UID_CORRECTION = "sop_uid_correction"
    PARTIAL_PICTURE = "partial_picture"
    POOLED_MODEL = "pooled_model"
    STUDY_IDENTITY_CONFLICT = "study_identity_conflict"
    MANIFEST_CONTRADICTS_HEADER = "manifest_contradicts_header"
    NOT_VALIDATED_IN_CHILDREN = "not_validated_in_children"
    LOW_CONTRAST = "low_contrast"
    SATURATED_PICTURE = "saturated_picture"
    INVERTED_PICTURE = "inverted_picture"
    PERHAPS_INVERTED = "perhaps_inverted"
    WINDOW_REPLACED = "window_replaced"
    HEADER_VALUE_UNREADABLE = "header_value_unreadable"
    HEADER_CONTRADICTS_PICTURE = "header_contradicts_picture"
    DAMAGED_PICTURE_DATA = "damaged_picture_data"
    NON_SQUARE_PIXELS = "non_square_pixels"
    ELONGATED_PICTURE = "elongated_picture"
    NEGATIVE_NOT_VALIDATED = "negative_not_validated"
    # failed: our fault
    PROCESSING_ERROR = "processing_error"
    PROCESSING_TIMEOUT = "processing_timeout"
    WORKER_LOST = "worker_lost"
    UNAVAILABLE = "unavailable"
    # cancelled
    CANCELLED_BY_USER = "cancelled_by_user"
    UPLOAD_DELETED = "upload_deleted"


@dataclass(frozen=True)
class ReasonText:
    """What a `Reason` says to a person: one sentence, and what to do next."""

    sentence: str
    advice: str


REASONS: Mapping[Reason, ReasonText] = {
    Reason.EMPTY_FILE: ReasonText("The file is empty.", "Export it again and resend it."),
    Reason.NOT_AN_IMAGE: ReasonText(
        "The file is not a PNG, JPEG, TIFF, WebP or DICOM image.",
        "Send one of these formats, or a ZIP of them.",
    ),
    Reason.TRUNCATED: ReasonText(
        "The picture data end before the picture does.", "Export the image again and resend it."
    ),
    Reason.CORRUPT: ReasonText(
        "The picture data cannot be decoded.", "Export the image again and resend it."
    ),
    Reason.TOO_SMALL: ReasonText(
        "The picture is smaller than 64 pixels on one side.", "Send the full-size image."
    ),
    Reason.TOO_LARGE: ReasonText(
        "The picture has more pixels than this server accepts.",
        "Send it at its acquisition size, or ask the operator to raise the limit.",
    ),
    Reason.FILE_TOO_LARGE: ReasonText(
        "The file is larger than this server accepts.",
        "Send fewer or smaller files, or ask the operator to raise the limit.",
    ),
    Reason.TOO_EXPENSIVE_TO_DECODE: ReasonText(
        "Decoding the file takes far more time or memory than a picture of its size should.",
        "Export the image again in another format; if it is refused again, ask the operator to raise the"
        " limit.",
    ),
    Reason.TIFF_PIXEL_FORMAT: ReasonText(
        "The pixels of the TIFF are floating-point, signed, 4-, 12- or 32-bit numbers, CMYK, or 16 bits with"
        " transparency, or it does not say whether high values are bright or dark, or it calls colours grey.",
        "Save it in grey with 8 or 16 bits and no transparency, as PNG, TIFF or DICOM; exporting it the same"
        " way again does not help.",
    ),
    Reason.UNSUPPORTED_CODING: ReasonText(
        "The picture is packed in a way that is not read here: JPEG of other than 8 bits, JPEG-LS, CMYK"
        " without a mark that says how, or a rare compression of TIFF.",
        "Save it as PNG, or as TIFF without compression; exporting it the same way again does not help.",
    ),
    Reason.ANIMATED: ReasonText(
        "The file holds several pictures.", "Send each picture as a file of its own."
    ),
    Reason.NOT_A_RADIOGRAPH: ReasonText(
        "The picture does not look like a radiograph.", "Send the radiograph itself, in grey tones."
    ),
    Reason.DUPLICATE_IN_STUDY: ReasonText(
        "The same bytes are already in this study.", "Nothing to do: the first copy is read."
    ),
    Reason.DICOM_UNSUPPORTED_CLASS: ReasonText(
        "The DICOM object is not a plain radiograph (CR, DX or SC).",
        "Send CR, DX or secondary-capture images.",
    ),
    Reason.DICOM_UNSUPPORTED_SYNTAX: ReasonText(
        "The DICOM transfer syntax cannot be decoded here.",
        "Send it as Explicit VR Little Endian, JPEG or JPEG 2000.",
    ),
    Reason.DICOM_MULTIFRAME: ReasonText(
        "The DICOM object has more than one frame.", "Send each frame as an image of its own."
    ),
    Reason.DICOM_NO_PIXELS: ReasonText(
        "The DICOM object has no pixel data.", "Send the object with its pixel data."
    ),
    Reason.DICOM_CORRUPT: ReasonText(
        "The DICOM file cannot be read.", "Export the object again and resend it."
    ),
    Reason.DICOM_CONTRADICTION: ReasonText(
        "The DICOM header and the picture data contradict each other, and neither can be believed.",
        "Send the object as the modality made it; exporting this copy again does not help.",
    ),
    Reason.DICOM_NO_PHOTOMETRIC: ReasonText(
        "The DICOM header does not say whether high values are bright or dark (Photometric Interpretation).",
        "Have the system that made the object write Photometric Interpretation.",
    ),
    Reason.DICOM_PIXEL_FORMAT: ReasonText(
        "The pixels of the DICOM object are not whole numbers of at most 16 bits in one or three samples.",
        "Have the system that made the object store 8 to 16 bits, grey or RGB.",
    ),
    Reason.BURNED_IN_ANNOTATION: ReasonText(
        "The header says that patient data are burned into the picture.",
        "Remove them first, or ask the operator to accept such images.",
    ),
    Reason.ARCHIVE_ENCRYPTED: ReasonText(
        "The archive or this member is password-protected.", "Send it without a password."
    ),
    Reason.ARCHIVE_NESTED: ReasonText(
        "An archive inside an archive is not opened.", "Unpack it and send its files."
    ),
    Reason.ARCHIVE_CORRUPT: ReasonText(
        "The archive or this member is damaged.", "Make the archive again and resend it."
    ),
    Reason.ARCHIVE_UNSAFE_PATH: ReasonText(
        "The member's path leads outside the archive.", "Make the archive with relative paths only."
    ),
    Reason.ARCHIVE_LINK: ReasonText("The member is a link or a device, not a file.", "Send the file itself."),
    Reason.ARCHIVE_BOMB: ReasonText(
        "The archive unpacks to more than this server accepts.",
        "Send smaller archives, or the files one by one.",
    ),
    Reason.ARCHIVE_TOO_MANY: ReasonText(
        "The archive has more members than this server accepts.", "Split it into several archives."
    ),
    Reason.ARCHIVE_UNSUPPORTED: ReasonText(
        "The member is packed in a way that is not opened here.",
        "Make the archive with ordinary ZIP compression (Deflate).",
    ),
    Reason.SOURCE_CHANGED: ReasonText(
        "The file of the data set is gone, or its bytes are not those that were registered.",
        "Bring it back, or register the data set anew.",
    ),
    Reason.DICOM_NOT_AN_IMAGE: ReasonText(
        "A DICOM object without a picture (directory, report, presentation state).",
        "Nothing to do: it is skipped.",
    ),
    Reason.MADE_HERE: ReasonText(
        "A result of this service that came back to it: it is no radiograph, and is not read again.",
        "Nothing to do: it is skipped. Have the archive not forward results to where they came from.",
    ),
    Reason.REGION_UNSUPPORTED: ReasonText(
        "This body part is not one that the model reads.", "Read the image without AI."
    ),
    Reason.REGION_UNSURE: ReasonText(
        "The model cannot tell which body part this is.", "Read the image without AI."
    ),
    Reason.UNFAMILIAR_IMAGE: ReasonText(
        "The image is unlike those that the model was trained on.", "Read the image without AI."
    ),
    Reason.STUDY_INCOMPLETE: ReasonText(
        "Not every image of the study could be assessed.", "Read the images that were not assessed."
    ),
    Reason.TOO_LITTLE_CONTRAST: ReasonText(
        "The picture has too few grey levels to be read: it is nearly black, nearly white, flat, or has no"
        " greys.",
        "Send the radiograph with all its grey levels, the DICOM object at best.",
    ),
    Reason.REGION_CONTRADICTS_HEADER: ReasonText(
        "The body part in the header differs from the one that the model sees.",
        "Check the header and read the image yourself.",
    ),
    Reason.SEVERAL_REGIONS: ReasonText(
        "The image seems to show several body regions.", "Read the whole image yourself."
    ),
    Reason.BURNED_IN_FLAG: ReasonText(
        "The header says that patient data are burned into the picture.",
        "Handle reports and exports of this image as identified data.",
    ),
    Reason.SOP_UID_CORRECTION: ReasonText(
        "Another image with the same SOP Instance UID and other bytes is here too.",
        "Decide which of the two is the right one.",
    ),
    Reason.PARTIAL_PICTURE: ReasonText(
        "The end of the file is missing; most of the picture could be read.",
        "Export the image again to have all of it read.",
    ),
    Reason.POOLED_MODEL: ReasonText(
        "Read by a model for several regions, since this region had too few fractures to train its own.",
        "Trust the result less than one of a region's own model.",
    ),
    Reason.STUDY_IDENTITY_CONFLICT: ReasonText(
        "Images of another patient or accession number carry the same study identifier.",
        "Check whose images these are before you report.",
    ),
    Reason.MANIFEST_CONTRADICTS_HEADER: ReasonText(
        "The manifest states another accession number or side than the image's header; the header counts.",
        "Check whose image this is, and which side it shows, before you report.",
    ),
    Reason.NOT_VALIDATED_IN_CHILDREN: ReasonText(
        "The patient is under 18 years of age, and the AI is not validated in children.",
        "Read the image as if there were no AI result.",
    ),
    Reason.LOW_CONTRAST: ReasonText(
        "The picture uses only a part of its grey levels, as a dark or faded export does.",
        "Read the image yourself; send the DICOM object, or an export with the right window.",
    ),
    Reason.SATURATED_PICTURE: ReasonText(
        "Much of the picture is plain white: what bone shows there is lost.",
        "Read the image yourself; send the DICOM object, or an export with a wider window.",
    ),
    Reason.INVERTED_PICTURE: ReasonText(
        "The picture seems to be inverted, with a white background, and was read turned round.",
        "Check that bone is bright in the picture shown; send images that are not inverted.",
    ),
    Reason.PERHAPS_INVERTED: ReasonText(
        "The background of the picture is bright: it is perhaps inverted.",
        "Check that bone is bright in the picture shown.",
    ),
    Reason.WINDOW_REPLACED: ReasonText(
        "The window in the header hides most of the grey values of this image, so another one was used.",
        "Check the picture shown against the original.",
    ),
    Reason.HEADER_VALUE_UNREADABLE: ReasonText(
        "A header value that the grey values depend on cannot be read; it was left out with what needs it.",
        "Check the picture shown against the original.",
    ),
    Reason.HEADER_CONTRADICTS_PICTURE: ReasonText(
        "The header contradicts the picture data; the picture data were believed.",
        "Check the picture shown against the original.",
    ),
    Reason.DAMAGED_PICTURE_DATA: ReasonText(
        "The picture data are damaged, or do not fill the place that the file gives them: parts of the"
        " picture may be wrong or have moved.",
        "Check the picture shown against the original; send the file again from there.",
    ),
    Reason.NON_SQUARE_PIXELS: ReasonText(
        "The file says that its pixels are not square, as a picture squashed to one side has them, or says"
        " two things about them.",
        "Check the proportions of the picture shown.",
    ),
    Reason.ELONGATED_PICTURE: ReasonText(
        "The picture is far longer than it is wide, and its file does not say that its pixels are square: it"
        " may be squashed.",
        "Check the proportions of the picture shown; send the DICOM object, which states them.",
    ),
    Reason.NEGATIVE_NOT_VALIDATED: ReasonText(
        "Below the lower threshold, but too few known cases show that the AI finds them in this body part: it"
        " does not say negative.",
        "Read the image yourself; an administrator can validate the body part on the site's own images"
        " (fractureai validate).",
    ),
    Reason.PROCESSING_ERROR: ReasonText(
        "The image could not be processed.", "Retry; if it fails again, tell the operator."
    ),
    Reason.PROCESSING_TIMEOUT: ReasonText(
        "Processing took longer than allowed.", "Retry; if it fails again, tell the operator."
    ),
    Reason.WORKER_LOST: ReasonText(
        "The worker process died while it read the image.",
        "Retry; if it fails again, tell the operator.",
    ),
    Reason.UNAVAILABLE: ReasonText(
        "Something that the reading needs was unavailable for too long.",
        "Tell the operator; retry when it is there again.",
    ),
    Reason.CANCELLED_BY_USER: ReasonText("The batch was cancelled.", "Retry the batch if needed."),
    Reason.UPLOAD_DELETED: ReasonText(
        "The batch was cancelled before the file was read, and the file was deleted.",
        "Send the file again, in a new batch, if needed.",
    ),
}
