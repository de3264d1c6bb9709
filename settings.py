"""One frozen, validated settings object, read from FRACTUREAI_* environment variables."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints
from urllib.parse import quote, urlsplit

PREFIX = "FRACTUREAI_"

#: Of the software; the same as in pyproject.toml.
VERSION = "0.1.0"


class SettingsError(ValueError):
    """A setting is missing, malformed, or contradicts another one."""


@dataclass(frozen=True)
class Settings:
    """Everything that a person can set. ``FRACTUREAI_<NAME>`` sets ``name``.

    ``FRACTUREAI_<NAME>_FILE`` names a file that holds the value: a secret of an orchestrator. An empty
    variable counts as not set. Times are in seconds, sizes in bytes. Secrets never appear in `repr`.
    """

    # where things are
    database_url: str = ""  # of Postgres, as the service's own account
    broker_url: str = ""  # of Valkey or Redis
    blob_url: str = ""  # of the blob store: file:///folder, or s3://bucket/prefix?endpoint=...
    secret_key: str = ""  # what other secrets are sealed with; at least 32 random characters, never changed
    database_password: str = ""  # of database_url and database_direct_url; any letters
    database_owner_password: str = ""  # of database_owner_url; any letters
    broker_password: str = ""  # of broker_url; any letters
    site_name: str = "Demo hospital"  # of the first site
    public_url: str = ""  # under which people reach the service, without a path
    # the database
    database_pooler: str = ""  # PgBouncer's mode, "transaction" or "session", where database_url leads to one
    database_owner_url: str = ""  # of the tables' owner, for migrate, backup and restore; empty: database_url
    database_direct_url: str = ""  # past the pooler, for migrations, recovery's lock and fsck
    database_statement_seconds: float = 60.0  # then a query is cancelled
    database_lock_seconds: float = 20.0  # then a query that waits for a lock is cancelled
    # what reads
    scorer_backend: str = "auto"  # auto, tensorflow or openvino
    precision: str = "float32"  # float32 or bfloat16
    scorer_threads: int = 0  # of a process that scores; 0: one a processor
    conversion_seconds: float = 450.0  # that the first load of a network may take
    networks_dir: str = ""  # of networks converted beforehand, as the images hold them; empty: none
    cache_dir: str = ""  # of fetched bundles and converted networks; empty: the user's cache folder
    # limits of what is taken in
    max_request_bytes: int = 2 * 1024**3  # of one request
    max_file_bytes: int = 512 * 1024**2  # of one file
    max_archive_members: int = 100_000  # of one archive
    max_archive_bytes: int = 20 * 1024**3  # of one archive, unpacked
    max_archive_ratio: int = 200  # of unpacked to packed bytes
    max_pixels: int = 100_000_000  # of one picture
    decode_cpu_seconds: float = 10.0  # of processor time for one file; a small file gets less
    decode_wall_seconds: float = 60.0  # on the clock, for one file
    decode_memory_bytes: int = 2 * 1024**3  # of the process that decodes
    decode_slice_seconds: float = 10.0  # after so long in decoding, the rest of a chunk queues again
    burned_in_annotation: str = "flag"  # flag or refuse DICOM with writing in its pixels
    site_quota_bytes: int = 0  # of uploads, for a site without a quota of its own; 0: no bound
    upload_keep_seconds: float = 3 * 86_400.0  # of a large file that nobody goes on with
    # work
    chunk_size: int = 32  # images that travel together, 1 to 64
    lease_seconds: float = 30.0  # after which a unit of work that is not renewed is another worker's
    lease_renew_seconds: float = 10.0  # between two renewals of a lease
    max_attempts: int = 3  # at a chunk before it is split, and at an image before it fails
    finish_attempts: int = 10  # to complete a batch whose images have ended; then it ends and says why
    resend_seconds: float = 60.0  # after which what was published and not taken is sent again
    reconcile_seconds: float = 1.0  # between two rounds of recovery
    recovery_overdue_seconds: float = 60.0  # without recovery for so long, /readyz says so
    unavailable_seconds: float = 3 * 86_400.0  # then work fails that waits for what is away
    in_flight_per_slot: int = 2  # units in Valkey for each place of a worker
    urgent_only: bool = False  # of a worker: it takes urgent work alone, and stays free for it
    dispatch_timeout_seconds: float = 1.0  # that a request waits for Valkey; recovery sends what it did not
    blob_timeout_seconds: float = 20.0  # of one answer of an S3 store; it is asked three times
    aging_seconds: float = 600.0  # after which waiting work counts as one priority higher, and no more
    soft_time_limit: float = 540.0  # of a stage; then it fails and is tried again
    hard_time_limit: float = 600.0  # of a stage; then its process is killed
    visibility_timeout: float = 3600.0  # after which Valkey gives an unacknowledged message to another worker
    soft_shutdown_seconds: float = 8.0  # that a worker has to give its work back
    heartbeat_seconds: float = 5.0  # between two signs of life of a worker
    memory_limit_bytes: int = 4 * 1024**3  # of a process that decodes or draws; 0 means none
    scratch_keep_seconds: float = 86_400.0  # of intermediate files that nobody names
    draft_keep_seconds: float = 7 * 86_400.0  # of a draft, and of the uploads of images that failed
    cancelled_keep_seconds: float = 0.0  # of uploads of cancelled images, for a retry; 0: they go at once
    worklist_wait_hours: float = 48.0  # then a study counts as urgent; 0: never
    # downloads
    pixels_keep_seconds: float = 2 * 86_400.0  # of a picture at full depth, made when somebody looked at it
    export_keep_seconds: float = 7 * 86_400.0  # of a prepared file
    export_inline_rows: int = 20_000  # of a table that is streamed at once
    export_inline_images: int = 500  # of a ZIP that is streamed at once
    max_exports: int = 10  # in preparation at one time, a site
    # signing in
    session_hours: float = 12.0  # then a person signs in again
    session_idle_hours: float = 2.0  # without a request, then the same
    secure_cookies: bool = False  # cookies over HTTPS alone; set it wherever HTTPS is spoken
    trusted_hosts: str = ""  # names that the web process answers to, with commas; empty: any
    oidc_issuer: str = ""  # of the hospital's identity provider; empty: off
    oidc_client_id: str = ""  # of this service at the provider
    oidc_client_secret: str = ""  # of this service at the provider
    oidc_label: str = "Hospital account"  # of the button that leads to the provider
    oidc_scope: str = "openid email profile"  # asked of the provider
    oidc_site: str = ""  # the site of those who sign in there; empty: the first one
    oidc_role_claim: str = ""  # the claim that names groups or roles, such as "groups"
    oidc_roles: str = ""  # which of them gives which role, "radiology=clinician,it=admin"; the first counts
    oidc_default_role: str = ""  # of whom no group names a role; empty: they may not sign in
    oidc_vouch_days: float = 30.0  # without a sign-in at the provider, keys of people with its role rest
    blob_capacity_bytes: int = 0  # of an S3 bucket, for the watermark; 0: only the store's own word
    disk_watermark: float = 0.0  # above this share of a full disk the oldest originals go; 0: never
    # notices
    notice_retry_seconds: float = 5.0  # before the second try; five times longer before each one after
    notice_attempts: int = 8  # at a notice
    notice_timeout_seconds: float = 10.0  # of the whole exchange with a receiver
    notice_private_addresses: bool = False  # let webhooks go to private networks, and by plain HTTP
    smtp_host: str = ""  # empty: no e-mail
    smtp_port: int = 587  # of the mail server
    smtp_security: str = "starttls"  # starttls, tls or none
    smtp_user: str = ""  # of the mail server; empty: no sign-in
    smtp_password: str = ""  # of the mail server
    smtp_from: str = "fractureai@localhost"  # the sender of mail
    # DICOM
    gateway_host: str = ""  # address on which the DICOM receiver listens; empty: every one
    gateway_port: int = 11112  # of the DICOM receiver
    gateway_processes: int = 2  # of the DICOM receiver, which share the port
    gateway_associations: int = 24  # at one time, a process of the DICOM receiver
    gateway_pdu_bytes: int = 131_072  # of the longest PDU that the DICOM receiver takes
    gateway_idle_seconds: float = 60.0  # without a word, then the DICOM receiver ends an association
    gateway_tls_cert: str = ""  # file with the DICOM receiver's certificate; empty: no TLS
    gateway_tls_key: str = ""  # file with its private key
    gateway_tls_ca: str = ""  # file with the authorities whose client certificates it takes
    gateway_keys: str = ""  # folder of the private keys that open sealed identities; of what delivers alone
    gateway_key_command: str = ""  # prints the private key named by its last argument: of a KMS, no folder
    envelope_keep_days: float = 30.0  # of a sealed identity, after its study's last delivery; 0: for ever
    delivery_retry_seconds: float = 30.0  # before the second try at an object; then twice as long each time
    delivery_timeout_seconds: float = 60.0  # of one exchange with an archive; more for a large object
    # clients of the web process
    request_head_seconds: float = 10.0  # for the head of a request, and to begin a small body
    client_stall_seconds: float = 30.0  # that a client may stand still in a body or an answer
    client_bytes_per_second: int = 1024  # what a client must move on average
    alive_file: str = ""  # touched while a worker or reconcile lives, for a health check; empty: none
    health_port: int = 0  # of the listener that answers /healthz, /readyz and /metrics to whoever reaches it
    trusted_proxies: int = 0  # in front of the web process, whose X-Forwarded-* is believed
    log_level: str = "INFO"  # DEBUG, INFO, WARNING or ERROR

    def __post_init__(self) -> None:
        """Refuse settings that would lose work."""
        rules = {
            "scorer_backend must be auto, tensorflow or openvino": self.scorer_backend
            in {"auto", "tensorflow", "openvino"},
            "precision must be float32 or bfloat16": self.precision in {"float32", "bfloat16"},
            "burned_in_annotation must be flag or refuse": self.burned_in_annotation in {"flag", "refuse"},
            "chunk_size must be 1 to 64": 1 <= self.chunk_size <= 64,
            "lease_renew_seconds must be less than half of lease_seconds": 0
            < self.lease_renew_seconds
            < self.lease_seconds / 2,
            "soft_time_limit must be at most 0.9 x hard_time_limit": 0
            < self.soft_time_limit
            <= 0.9 * self.hard_time_limit,
            "conversion_seconds must be less than soft_time_limit": 0
            < self.conversion_seconds
            < self.soft_time_limit,
            "visibility_timeout must exceed hard_time_limit": self.visibility_timeout > self.hard_time_limit,
            "worklist_wait_hours must not be negative": self.worklist_wait_hours >= 0,
            "database_pooler must be transaction, session, or empty": self.database_pooler
            in {"", "transaction", "session"},
            "database_direct_url must be set with database_pooler: migrations, recovery's lock and fsck need"
            " a session of their own": not self.database_pooler or bool(self.database_direct_url),
            "database_statement_seconds must exceed database_lock_seconds": self.database_statement_seconds
            > self.database_lock_seconds
            > 0,
            "recovery_overdue_seconds must exceed reconcile_seconds": self.recovery_overdue_seconds
            > self.reconcile_seconds,
            "unavailable_seconds must be more than 0": self.unavailable_seconds > 0,
            "max_attempts must be at least 1": self.max_attempts >= 1,
            "finish_attempts must be at least 1": self.finish_attempts >= 1,
            "cancelled_keep_seconds must not be negative": self.cancelled_keep_seconds >= 0,
            "public_url must be the root of a host name, without a path": urlsplit(self.public_url).path
            in {"", "/"},
            "blob_capacity_bytes must not be negative": self.blob_capacity_bytes >= 0,
            "disk_watermark must be 0 to 1": 0 <= self.disk_watermark < 1,
            "smtp_security must be starttls, tls or none": self.smtp_security in {"starttls", "tls", "none"},
            "oidc_vouch_days must be more than 0": self.oidc_vouch_days > 0,
            "session_idle_hours and session_hours must be more than 0": self.session_hours > 0
            and self.session_idle_hours > 0,
            "memory_limit_bytes must be 0 or at least 512 MiB": self.memory_limit_bytes == 0
            or self.memory_limit_bytes >= 512 * 1024**2,
            "gateway_processes and gateway_associations must be at least 1": min(
                self.gateway_processes, self.gateway_associations
            )
            >= 1,
            "gateway_pdu_bytes must be at least 4096": self.gateway_pdu_bytes >= 4096,
            "request_head_seconds, client_stall_seconds and client_bytes_per_second must be more than 0": min(
                self.request_head_seconds, self.client_stall_seconds, self.client_bytes_per_second
            )
            > 0,
            "decode_cpu_seconds must be at least 1, and less than decode_wall_seconds": 1
            <= self.decode_cpu_seconds
            < self.decode_wall_seconds,
            "decode_slice_seconds must be more than 0": self.decode_slice_seconds > 0,
            "decode_memory_bytes must be at least 256 MiB": self.decode_memory_bytes >= 256 * 1024**2,
            "max_pixels must be at least 4096": self.max_pixels >= 64 * 64,
        }
        for sentence, holds in rules.items():
            if not holds:
                raise SettingsError(sentence)

    def __repr__(self) -> str:
        """Show the settings without the secrets."""
        hidden = {
            "database_url",
            "database_owner_url",
            "database_direct_url",
            "broker_url",
            "blob_url",
            "secret_key",
            "database_password",
            "database_owner_password",
            "broker_password",
            "oidc_client_secret",
            "smtp_password",
        }
        shown = ", ".join(
            f"{f.name}={'***' if f.name in hidden else getattr(self, f.name)!r}" for f in fields(self)
        )
        return f"Settings({shown})"

    @property
    def cache_folder(self) -> Path:
        """Where files are kept that can be made again: fetched bundles, converted networks."""
        if self.cache_dir:
            return Path(self.cache_dir)
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fractureai"

    @property
    def mails_links(self) -> bool:
        """Whether who forgot a password gets a link by mail: its host is never one that a request named."""
        return bool(self.smtp_host and self.public_url)

    def require(self, *names: str) -> Settings:
        """Return self, or raise `SettingsError` naming the first empty one of `names`."""
        for name in names:
            if not getattr(self, name):
                raise SettingsError(f"{PREFIX}{name.upper()} is not set")
        return self


def _parse(name: str, kind: Any, text: str) -> Any:
    if kind is bool:
        if text.lower() in {"1", "true", "yes", "on"}:
            return True
        if text.lower() in {"0", "false", "no", "off", ""}:
            return False
        raise SettingsError(f"{PREFIX}{name.upper()} must be true or false, not {text!r}")
    try:
        return kind(text)
    except ValueError:
        raise SettingsError(f"{PREFIX}{name.upper()} must be {kind.__name__}, not {text!r}") from None


def stated(name: str, environ: Mapping[str, str] | None = None) -> str:
    """Return what the environment says of a setting, or the file that it names; empty when neither does.

    Raises
    ------
    SettingsError
        The file cannot be read.
    """
    variable = PREFIX + name.upper()
    environ = os.environ if environ is None else environ
    if value := environ.get(variable, ""):
        return value
    if not (file := environ.get(f"{variable}_FILE", "")):
        return ""
    try:
        return Path(file).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{variable}_FILE names a file that cannot be read: {error}") from None


#: Addresses, and the setting that holds their password.
_PASSWORDS = {
    "database_url": "database_password",
    "database_direct_url": "database_password",
    "database_owner_url": "database_owner_password",
    "broker_url": "broker_password",
}


def _with_password(address: str, password: str) -> str:
    """Put a password of any letters into an address, in place of its own."""
    scheme, _, rest = address.partition("://")
    place, slash, path = rest.partition("/")
    account, _, host = place.rpartition("@")
    return f"{scheme}://{account.partition(':')[0]}:{quote(password, safe='')}@{host}{slash}{path}"


def from_environ(environ: Mapping[str, str]) -> Settings:
    """Read settings from a mapping such as `os.environ`.

    Raises
    ------
    SettingsError
        A value is malformed or contradicts another one.
    """
    kinds = get_type_hints(Settings)
    given = {f.name: stated(f.name, environ) for f in fields(Settings)}
    values = {name: _parse(name, kinds[name], text) for name, text in given.items() if text}
    for address, secret in _PASSWORDS.items():
        if values.get(address) and values.get(secret):
            values[address] = _with_password(values[address], values[secret])
    return Settings(**values)


@cache
def get_settings() -> Settings:
    """Return this process's settings, read once."""
    return from_environ(os.environ)


def start_log(settings: Settings, *, replace: bool = True) -> None:
    """Log to standard error at the level that is set, each line with its time in UTC.

    Parameters
    ----------
    replace
        Whether a log that was set up before goes; else it stays as it is.
    """
    formatter = logging.Formatter("%(asctime)s UTC %(levelname)s %(name)s %(message)s")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=replace)
