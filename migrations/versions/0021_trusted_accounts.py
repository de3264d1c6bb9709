"""Second factors, roles of a provider, known places, mails about accounts; the audit becomes a chain."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_EMPTY = sa.text("'[]'::jsonb")

#: What a link's hash covers, as text. `store.operations.audit` computes the same.
_LINK = """
    encode(sha256(convert_to(before || jsonb_build_array(
        a.id, a.site_id, a.user_id, a.action, a.object_id, a.detail, extract(epoch FROM a.at),
        a.address, a.key_id, a.operator)::text, 'UTF8')), 'hex')
"""

#: Transactions take the lock as they commit, and hold it for no longer: their rows get numbers in the order
#: in which they commit, and whoever waits holds no lock that the others want.
_CHAIN = """
    CREATE FUNCTION audit_link_next(line bigint) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE place bigint; before text; a audit;
    BEGIN
        SELECT seq, hash INTO place, before FROM audit_chain ORDER BY seq DESC LIMIT 1;
        SELECT * INTO STRICT a FROM audit WHERE id = line;
        before := coalesce(before, '');
        INSERT INTO audit_chain (seq, audit_id, hash) VALUES (coalesce(place, 0) + 1, line, LINK_HASH);
    END $$;
    CREATE FUNCTION audit_link_new() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = public, pg_temp AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock(7218);
        PERFORM audit_link_next(NEW.id);
        RETURN NULL;
    END $$;
    DO $$
    DECLARE line bigint;
    BEGIN
        FOR line IN SELECT id FROM audit ORDER BY id LOOP PERFORM audit_link_next(line); END LOOP;
    END $$;
    REVOKE ALL ON FUNCTION audit_link_next(bigint), audit_link_new() FROM PUBLIC;
    CREATE CONSTRAINT TRIGGER audit_chained AFTER INSERT ON audit DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION audit_link_new();
    CREATE TRIGGER audit_chain_append_only BEFORE UPDATE OR DELETE ON audit_chain
    FOR EACH ROW EXECUTE FUNCTION audit_is_append_only();
    CREATE TRIGGER audit_chain_no_truncate BEFORE TRUNCATE ON audit_chain
    FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only();
"""

#: Who came by a provider, and to whom no administrator has given another role since.
_FROM_PROVIDER = """
    UPDATE users SET role_from_provider = true, vouched_at = now() WHERE provider_subject IS NOT NULL
    AND NOT EXISTS (SELECT FROM audit WHERE audit.site_id = users.site_id AND action = 'role_changed'
                    AND object_id = users.id::text AND audit.user_id IS NOT NULL)
"""


def upgrade() -> None:
    """Go up."""
    op.add_column("users", sa.Column("vouched_at", _TIME))
    op.add_column(
        "users", sa.Column("role_from_provider", sa.Boolean, server_default=sa.false(), nullable=False)
    )
    op.add_column("users", sa.Column("totp_secret", sa.Text))
    op.add_column("users", sa.Column("totp_step", sa.BigInteger))
    op.add_column(
        "users", sa.Column("recovery_codes", postgresql.JSONB, server_default=_EMPTY, nullable=False)
    )
    op.add_column(
        "sites", sa.Column("second_factor_roles", postgresql.JSONB, server_default=_EMPTY, nullable=False)
    )
    op.add_column("user_sessions", sa.Column("how", sa.Text, server_default="", nullable=False))
    op.add_column(
        "user_sessions", sa.Column("second_factor", sa.Boolean, server_default=sa.false(), nullable=False)
    )
    op.add_column(
        "user_sessions", sa.Column("proved_at", _TIME, server_default=sa.func.now(), nullable=False)
    )
    op.add_column("audit", sa.Column("address", sa.Text))
    op.add_column("audit", sa.Column("key_id", sa.Uuid))
    op.add_column("audit", sa.Column("operator", sa.Text))
    op.create_table(
        "known_places",
        sa.Column("user_id", sa.Uuid, sa.ForeignKey("users.id"), primary_key=True),
        sa.Column("place_hash", sa.String(64), primary_key=True),
        sa.Column("seen_at", _TIME, server_default=sa.func.now(), nullable=False),
    )
    op.create_table(
        "account_mails",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("user_id", sa.Uuid, sa.ForeignKey("users.id"), nullable=False, index=True),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("said", sa.Text, server_default="", nullable=False),
        sa.Column("at", _TIME, server_default=sa.func.now(), nullable=False),
    )
    op.create_table(
        "audit_chain",
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("audit_id", sa.BigInteger, nullable=False, unique=True),
        sa.Column("hash", sa.String(64), nullable=False),
    )
    op.execute(_CHAIN.replace("LINK_HASH", _LINK))
    op.execute(_FROM_PROVIDER)


def downgrade() -> None:
    """Go back."""
    op.execute("DROP TRIGGER audit_chained ON audit")
    op.drop_table("audit_chain")
    op.execute("DROP FUNCTION audit_link_new(); DROP FUNCTION audit_link_next(bigint)")
    for table in ("account_mails", "known_places"):
        op.drop_table(table)
    for table, columns in {
        "audit": ("address", "key_id", "operator"),
        "user_sessions": ("how", "second_factor", "proved_at"),
        "sites": ("second_factor_roles",),
        "users": ("vouched_at", "role_from_provider", "totp_secret", "totp_step", "recovery_codes"),
    }.items():
        for column in columns:
            op.drop_column(table, column)
