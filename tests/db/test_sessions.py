"""Sessions of the database: a transaction for all that is done in one, or for each statement."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from cli.embedded import Servers
from store.base import session as session_module
from store.base.session import get_engine, session_scope, statement_scope

NUMBER = text("SELECT pg_current_xact_id()::text")


def transactions(session: Session) -> int:
    return len({session.scalar(NUMBER) for _ in range(3)})


@pytest.mark.usefixtures("database")
def test_a_statement_by_itself_is_a_transaction_and_the_next_session_is_one_again() -> None:
    for _ in range(2):
        with statement_scope() as session:
            assert transactions(session) == 3
        with session_scope() as session:
            assert transactions(session) == 1


@pytest.mark.usefixtures("database")
def test_what_breaks_off_between_statements_leaves_the_connection_usable() -> None:
    def break_off() -> None:
        with statement_scope() as session:
            session.scalar(NUMBER)
            raise LookupError

    with pytest.raises(LookupError):
        break_off()
    with session_scope() as session:
        assert transactions(session) == 1


def test_through_a_pooler_statements_have_the_limits_of_a_transaction(
    database: Engine, settings_env: pytest.MonkeyPatch, servers: Servers
) -> None:
    address = servers.environment()["FRACTUREAI_DATABASE_URL"]
    settings_env.setenv("FRACTUREAI_DATABASE_POOLER", "transaction")
    settings_env.setenv(
        "FRACTUREAI_DATABASE_DIRECT_URL", address.replace("postgresql+psycopg:", "postgresql:")
    )
    settings_env.setenv("FRACTUREAI_DATABASE_STATEMENT_SECONDS", "77")
    session_module.get_settings.cache_clear()
    settings_env.setattr(session_module, "_engine", None)
    with statement_scope() as session:
        assert session.scalar(text("SELECT current_setting('statement_timeout')")) == "77s"
        assert transactions(session) == 1
    get_engine().dispose()
