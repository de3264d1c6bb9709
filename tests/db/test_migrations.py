"""The migrations go up and down, and agree with the tables."""

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import DBAPIError

from store.tables import Base
from tests.conftest import ROOT


def test_down_and_up_again_and_no_difference(database: Engine) -> None:
    config = Config(str(ROOT / "alembic.ini"))
    command.downgrade(config, "base")
    assert set(inspect(database).get_table_names()) <= {"alembic_version"}
    command.upgrade(config, "head")
    assert set(Base.metadata.tables) <= set(inspect(database).get_table_names())
    command.check(config)


def test_audit_rows_are_append_only(database: Engine) -> None:
    with database.begin() as connection:
        connection.execute(text("INSERT INTO sites (id, name) VALUES (gen_random_uuid(), 'A')"))
        connection.execute(text("INSERT INTO audit (site_id, action) SELECT id, 'test' FROM sites"))
    for statement in ("UPDATE audit SET action = 'x'", "DELETE FROM audit", "TRUNCATE audit"):
        with pytest.raises(DBAPIError, match="append-only"), database.begin() as connection:
            connection.execute(text(statement))
