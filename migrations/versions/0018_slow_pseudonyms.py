"""Hashes of patient ids become slow to guess: scrypt over the keyed hash that was kept so far.

Needs the secret key if there are any. About a hundredth of a second a patient, on all cores. Going down
leaves them as they are: the quick hash cannot be had back.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import sqlalchemy as sa
from alembic import op

from settings import get_settings

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

_PATIENTS = """
    SELECT site_id, patient_hash FROM images WHERE patient_hash ~ '^[0-9a-f]{64}$'
    UNION SELECT site_id, patient_hash FROM studies WHERE patient_hash ~ '^[0-9a-f]{64}$'
"""

_RAISED = (
    """
    UPDATE images SET patient_hash = slow FROM slow_hashes
    WHERE slow_hashes.site_id = images.site_id AND quick = images.patient_hash
    """,
    """
    UPDATE studies SET patient_hash = slow, key = replace(key, quick, slow) FROM slow_hashes
    WHERE slow_hashes.site_id = studies.site_id AND quick = studies.patient_hash
    """,
)


def _slow(patient: tuple[uuid.UUID, str]) -> str:
    site_id, quick = patient
    secret = get_settings().require("secret_key").secret_key.encode()
    salt = hmac.new(secret, b"patient-pseudonym-scrypt:" + site_id.bytes, hashlib.sha256).digest()
    return hashlib.scrypt(
        bytes.fromhex(quick), salt=salt, n=1 << 12, r=8, p=1, maxmem=1 << 24, dklen=32
    ).hex()


def upgrade() -> None:
    """Go up."""
    connection = op.get_bind()
    patients = [(site_id, quick) for site_id, quick in connection.execute(sa.text(_PATIENTS))]
    if not patients:
        return
    connection.execute(
        sa.text("CREATE TEMP TABLE slow_hashes (site_id uuid, quick text, slow text) ON COMMIT DROP")
    )
    insert = sa.text("INSERT INTO slow_hashes (site_id, quick, slow) VALUES (:site_id, :quick, :slow)")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        hashes = pool.map(_slow, patients)
        rows: Iterator[dict[str, object]] = (
            {"site_id": site_id, "quick": quick, "slow": slow}
            for (site_id, quick), slow in zip(patients, hashes, strict=True)
        )
        while some := list(islice(rows, 1000)):
            connection.execute(insert, some)
    for statement in _RAISED:
        connection.execute(sa.text(statement))


def downgrade() -> None:
    """Go down."""
