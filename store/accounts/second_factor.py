"""The second factor: codes of an authenticator app (TOTP, RFC 6238), and recovery codes for a lost phone."""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Collection

from cryptography.fernet import InvalidToken
from sqlalchemy import select
from sqlalchemy.orm import Session

from store.accounts import people
from store.accounts.account_mails import AccountEvent, tell
from store.accounts.accounts import Role, hash_token, write_audit
from store.base.errors import ServiceError
from store.base.sealing import sealer
from store.base.tables import Site, User

#: Seconds for which a code counts; the one before and the one after are taken, too.
STEP = 30
RECOVERY_CODES = 10
#: Seconds within which a shown secret is confirmed by its first code.
ENROLMENT_SECONDS = 900
_PURPOSE = b"second factors"


class CodeWrong(ServiceError):
    """A code of the authenticator app, or a recovery code, that is not the right one now."""

    code, status, about = "code_wrong", 422, "code"
    title = "This code is not right, or was used already."
    advice = "Wait for the next code of your authenticator app; its clock must be right to half a minute."


class OwnSecondFactor(ServiceError):
    """An administrator would do without their own second factor."""

    code, status = "own_second_factor", 409
    title = "Nobody resets their own second factor here."
    advice = "Remove it on your account page with a code, or ask another administrator."


def new_secret() -> str:
    """Return a new secret in base32, as authenticator apps take it."""
    import pyotp  # only where a second factor is in use

    return pyotp.random_base32()


def address_of(user: User, secret: str) -> str:
    """Return the address that the QR code holds."""
    import pyotp

    return pyotp.TOTP(secret, interval=STEP).provisioning_uri(name=user.email, issuer_name="FractureAI")


def seal_offer(user: User, secret: str) -> str:
    """Return the secret that a page offers, sealed for its form to bring back."""
    return sealer(_PURPOSE).encrypt(f"{user.id} {secret}".encode()).decode()


def _open_offer(user: User, offer: str) -> str:
    try:
        said = sealer(_PURPOSE).decrypt(offer.encode(), ttl=ENROLMENT_SECONDS).decode()
    except InvalidToken:
        raise CodeWrong("this page is too old: load it again") from None
    owner, _, secret = said.partition(" ")
    if owner != str(user.id):
        raise CodeWrong
    return secret


def _step_of(secret: str, code: str) -> int | None:
    """Return the time step whose code this is, among those that count now."""
    import pyotp

    totp, now = pyotp.TOTP(secret, interval=STEP), int(time.time()) // STEP
    digits = code.replace(" ", "")
    if not (len(digits) == 6 and digits.isascii() and digits.isdigit()):
        return None
    for step in (now, now - 1, now + 1):
        if secrets.compare_digest(totp.generate_otp(step), digits):
            return step
    return None


def enrol(session: Session, user: User, offer: str, code: str) -> list[str]:
    """Set the second factor that `offer` holds, confirmed by its first code; return new recovery codes.

    Raises
    ------
    CodeWrong
    """
    secret = _open_offer(user, offer)
    step = _step_of(secret, code)
    if step is None:
        raise CodeWrong
    codes = ["-".join(secrets.token_hex(3) for _ in range(2)) for _ in range(RECOVERY_CODES)]
    user.totp_secret = sealer(_PURPOSE).encrypt(secret.encode()).decode()
    user.totp_step = step
    user.recovery_codes = [hash_token(f"{user.id} {code}") for code in codes]
    write_audit(session, user.site_id, user.id, "second_factor_set", user.id)
    tell(session, user, AccountEvent.SECOND_FACTOR_SET)
    return codes


def check_code(session: Session, user_id: uuid.UUID, code: str) -> bool:
    """Tell whether this is a code of the person's app, or one of their recovery codes; each counts once."""
    user = session.scalars(select(User).where(User.id == user_id).with_for_update()).one()
    if user.totp_secret is None:
        return False
    secret = sealer(_PURPOSE).decrypt(user.totp_secret.encode()).decode()
    step = _step_of(secret, code)
    if step is not None and step > (user.totp_step or 0):
        user.totp_step = step
        return True
    recovery = hash_token(f"{user.id} {code.strip().lower()}")
    if recovery in user.recovery_codes:
        user.recovery_codes = [kept for kept in user.recovery_codes if kept != recovery]
        left = len(user.recovery_codes)
        write_audit(session, user.site_id, user.id, "recovery_code_used", user.id, left=left)
        return True
    write_audit(session, user.site_id, user.id, "second_factor_failed", user.id)
    return False


def remove(session: Session, user: User, *, by: uuid.UUID | None) -> None:
    """Let a person sign in without a second factor, until they set another."""
    user.totp_secret, user.totp_step, user.recovery_codes = None, None, []
    write_audit(session, user.site_id, by, "second_factor_removed", user.id)
    tell(session, user, AccountEvent.SECOND_FACTOR_REMOVED)


def reset(session: Session, site_id: uuid.UUID, user_id: uuid.UUID, *, by: uuid.UUID | None) -> User:
    """Remove somebody else's second factor, because their phone is gone; they are signed out.

    Raises
    ------
    NotFound, OwnSecondFactor
    """
    user = people.get_person(session, site_id, user_id)
    if by == user.id:
        raise OwnSecondFactor
    remove(session, user, by=by)
    people.sign_out(session, site_id, user_id, by=by)
    return user


def set_policy(session: Session, site: Site, roles: Collection[Role], *, by: uuid.UUID | None) -> None:
    """Demand a second factor of whoever has one of these roles and signs in here, not at a provider."""
    before, site.second_factor_roles = site.second_factor_roles, sorted(roles)
    write_audit(
        session, site.id, by, "second_factor_policy", site.id, before=before, after=site.second_factor_roles
    )
