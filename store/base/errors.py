"""Errors that a person sees: a stable code, an HTTP status, a sentence, and what to do next."""

from __future__ import annotations


class ServiceError(Exception):
    """Something was asked that cannot be done; the subclasses say what.

    Attributes
    ----------
    code
        Stable; the same in the API, the page, the command line and the log.
    status
        The HTTP status.
    title
        One sentence for the person.
    advice
        What to do next.
    waiting
        What to do while a batch waits because of it.
    about
        The field of a form that it is about, if it is about one.
    """

    code = "internal_error"
    status = 500
    title = "Something went wrong on our side."
    advice = "Try again; if it stays, tell the operator."
    about = ""
    waiting = "Tell the operator; the batch goes on by itself when it is mended, and nothing is lost."

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail or self.title)
        self.detail = detail


class NotFound(ServiceError):
    """There is no such object, or it belongs to another site."""

    code, status = "not_found", 404
    title = "There is nothing at this address."
    advice = "Check the id; objects of other sites are not shown."


class SignInBusy(ServiceError):
    """More passwords are being checked at one time than this process has memory set aside for."""

    code, status = "sign_in_busy", 503
    title = "Too many people are signing in at this moment."
    advice = "Try again in a few seconds."


class FindingsWithheld(ServiceError):
    """What a bundle said that the site had not promoted is asked for by somebody who compares no bundles."""

    code, status = "findings_withheld", 403
    title = "This batch was read by a bundle on trial; its findings are for researchers and administrators."
    advice = "Send the images again with your site's own bundle, or ask an administrator to promote this one."


class BatchNotDraft(ServiceError):
    """Files or a manifest were sent to a batch that was submitted."""

    code, status = "batch_not_draft", 409
    title = "The batch was submitted already and takes no more files."
    advice = "Create a new batch for more files."


class BatchEmpty(ServiceError):
    """A batch without files was submitted."""

    code, status = "batch_empty", 409
    title = "The batch has no files."
    advice = "Send files first, then submit."


class ManifestUnmatched(ServiceError):
    """Lines of the manifest met no file, or files no line, and the request forbids it."""

    code, status = "manifest_unmatched", 409
    title = "The manifest does not match the files."
    advice = "Correct its paths and send it again, add the files, or submit without 'strict'."


class WrongState(ServiceError):
    """The batch is in a state that does not allow this."""

    code, status = "wrong_state", 409
    title = "The batch is in a state that does not allow this."
    advice = "Look at the batch's status first."


class UploadsDeleted(ServiceError):
    """Images are to be read again whose bytes were deleted after they had been cancelled or had failed."""

    code, status = "uploads_deleted", 409
    title = "What was sent of these images was deleted after they had been cancelled or had failed."
    advice = "Send the files again, as a new batch."


class BatchGivenUp(ServiceError):
    """All images of a batch have ended, and what follows that failed each time."""

    code, status = "batch_given_up", 500
    title = "All images have ended, but completing the batch failed: reports of studies may be missing."
    advice = "Retry it, which tries its end again; if that fails, too, tell the operator."


class IdempotencyKeyReused(ServiceError):
    """One Idempotency-Key came with two different requests."""

    code, status = "idempotency_key_reused", 422
    title = "This Idempotency-Key was used with another request."
    advice = "Use a new key for a new request."


class UnknownBundle(ServiceError):
    """The bundle named is not installed here, or none is."""

    code, status = "unknown_bundle", 422
    title = "There is no such model bundle on this server."
    advice = "See the list of bundles; the operator adds one with 'fractureai bundles add'."


class InvalidCursor(ServiceError):
    """The cursor is not one that this server gave."""

    code, status = "invalid_cursor", 422
    title = "The cursor is not one that this server gave."
    advice = "Start again from the first page."


class QuotaExceeded(ServiceError):
    """The site has sent as many bytes as it may."""

    code, status = "quota_exceeded", 507
    title = "These files are more than your site may still send."
    advice = "Send fewer files, or ask the operator for a larger quota."


class OffsetConflict(ServiceError):
    """A piece of a resumable upload does not start where the last one ended."""

    code, status = "offset_conflict", 409
    title = "The piece does not start where the last one ended."
    advice = "Ask with HEAD where to go on."


class UploadIncomplete(ServiceError):
    """A resumable upload has not arrived whole."""

    code, status = "upload_incomplete", 409
    title = "The file has not arrived whole yet."
    advice = "Send the rest of it first."


class ExportNotReady(ServiceError):
    """The file is still being prepared, or was cancelled, or failed."""

    code, status = "export_not_ready", 409
    title = "The file is not ready."
    advice = "Look at its state on the page Downloads; what failed or was cancelled can be asked for again."


class ExportExpired(ServiceError):
    """The file was kept for its time and deleted."""

    code, status = "export_expired", 410
    title = "The file was deleted: its time was over."
    advice = "Ask for it again on the page Downloads."


class TooManyExports(ServiceError):
    """So many files are being prepared for the site that another has to wait."""

    code, status = "too_many_exports", 429
    title = "Too many files are being prepared at this moment."
    advice = "Wait until one of them is ready, or cancel one."


class DownloadTooLarge(ServiceError):
    """More than is streamed at once was asked for."""

    code, status = "download_too_large", 422
    title = "This is too large to be sent at once."
    advice = "Have it prepared in the background: POST /api/v1/exports, or the page Downloads."


class BlobMissing(ServiceError):
    """The bytes are not in the blob store."""

    code, status = "bytes_missing", 404
    title = "The stored bytes are missing."
    advice = "Tell the operator to run 'fractureai fsck'."


class BlobAltered(ServiceError):
    """The bytes in the blob store are not those that were stored."""

    code, status = "bytes_altered", 500
    title = "The stored bytes were altered."
    advice = "Tell the operator to run 'fractureai fsck'; then send the image again."


class BlobUnavailable(ServiceError):
    """The blob store does not answer."""

    code, status = "storage_unavailable", 503
    title = "The storage does not answer."
    advice = "Try again in a minute."


class BlobFull(ServiceError):
    """No room is left for bytes."""

    code, status = "storage_full", 507
    title = "No room is left on the server's storage."
    advice = "Tell the operator; nothing was half-written, so send the same again later."
