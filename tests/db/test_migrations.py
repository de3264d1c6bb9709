"""The migrations go up and down, and agree with the tables."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic import command
from alembic.config import Config
from click import ClickException
from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import DBAPIError

from cli.prepare import migrate_database
from store.base.session import get_engine
from store.base.tables import Base
from store.operations import audit
from tests.conftest import ROOT


def test_down_and_up_again_and_no_difference(database: Engine) -> None:
    config = Config(str(ROOT / "alembic.ini"))
    command.downgrade(config, "base")
    assert set(inspect(database).get_table_names()) <= {"alembic_version"}
    command.upgrade(config, "head")
    assert set(Base.metadata.tables) <= set(inspect(database).get_table_names())
    command.check(config)


def test_a_database_of_another_version_is_told(database: Engine) -> None:
    with database.begin() as connection:
        known = connection.scalar(text("SELECT version_num FROM alembic_version"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0012'"))
    try:
        with pytest.raises(ClickException, match="later version of FractureAI, or to one from before"):
            migrate_database()
    finally:
        with database.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = :known"), {"known": known})


def test_audit_rows_are_append_only(database: Engine) -> None:
    with database.begin() as connection:
        connection.execute(text("INSERT INTO sites (id, name) VALUES (gen_random_uuid(), 'A')"))
        connection.execute(text("INSERT INTO audit (site_id, action) SELECT id, 'test' FROM sites"))
    for statement in ("UPDATE audit SET action = 'x'", "DELETE FROM audit", "TRUNCATE audit"):
        with pytest.raises(DBAPIError, match="append-only"), database.begin() as connection:
            connection.execute(text(statement))


def test_the_audit_is_a_chain_in_which_a_change_shows(database: Engine) -> None:
    def broken() -> list[tuple[int, str]]:
        with database.connect() as connection:
            return audit.broken_links(connection, most=100)

    with database.begin() as connection:
        connection.execute(text("INSERT INTO sites (id, name) VALUES (gen_random_uuid(), 'A')"))
        insert = "INSERT INTO audit (site_id, action, detail) SELECT id, 'test', '{\"n\": 1}' FROM sites"
        for _ in range(4):
            connection.execute(text(insert))
        ids = list(connection.scalars(text("SELECT id FROM audit ORDER BY id")))
    assert broken() == []
    with database.begin() as connection:
        assert audit.chain_head(connection).startswith("4 ")
    for change, said in {
        "UPDATE audit SET action = 'other' WHERE id = :id": "altered",
        "DELETE FROM audit WHERE id = :id": "the line was deleted",
        "DELETE FROM audit_chain WHERE audit_id = :id": "lines before it were deleted",
    }.items():
        with database.connect() as connection:  # by whoever may even switch the triggers off
            connection.execute(text("SET LOCAL session_replication_role = replica"))
            connection.execute(text(change), {"id": ids[1]})
            found = dict(audit.broken_links(connection, most=100))
            assert any(said in words for words in found.values()), change
            connection.rollback()
    with database.connect() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(text(insert))
        assert [words for _, words in audit.broken_links(connection, most=9)] == ["the line is in no chain"]


def test_transactions_at_once_make_one_chain(database: Engine) -> None:
    with database.begin() as connection:
        connection.execute(text("INSERT INTO sites (id, name) VALUES (gen_random_uuid(), 'A')"))

    def write(n: int) -> None:
        for _ in range(10):
            with database.begin() as connection:
                connection.execute(text("INSERT INTO audit (site_id, action) SELECT id, 'test' FROM sites"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    with database.connect() as connection:
        assert audit.broken_links(connection, most=9) == []
        assert audit.chain_head(connection).startswith("80 ")


def test_the_applications_account_can_neither_change_tables_nor_the_audit(database: Engine) -> None:
    with database.begin() as connection:
        connection.execute(text("INSERT INTO sites (id, name) VALUES (gen_random_uuid(), 'A')"))
    application = get_engine()
    with application.begin() as connection:
        connection.execute(text("INSERT INTO audit (site_id, action) SELECT id, 'test' FROM sites"))
        assert connection.scalar(text("SELECT count(*) FROM audit_chain")) == 0  # it comes with the commit
    with application.connect() as connection:
        assert audit.broken_links(connection, most=9) == []
        assert connection.scalar(text("SELECT count(*) FROM audit_chain")) == 1
        role = "SELECT rolsuper, rolcreaterole, rolcreatedb FROM pg_roles WHERE rolname = current_user"
        assert tuple(connection.execute(text(role)).one()) == (False, False, False)
    for statement in (
        "UPDATE audit SET action = 'x'",
        "DELETE FROM audit",
        "TRUNCATE audit",
        "DELETE FROM audit_chain",
        "INSERT INTO audit_chain VALUES (9, 9, 'x')",
        "SELECT audit_link_next(1)",
        "ALTER TABLE audit DISABLE TRIGGER ALL",
        "DROP TABLE audit",
        "SET session_replication_role = replica",
        "UPDATE alembic_version SET version_num = '0001'",
        "CREATE TABLE mine (n int)",
        "COPY sites TO PROGRAM 'cat'",
    ):
        with pytest.raises(DBAPIError, match=r"permission denied|must be owner"), application.begin() as link:
            link.execute(text(statement))


def test_images_on_their_way_keep_their_stage_by_its_name(database: Engine) -> None:
    """Numbers that are there become names; what a worker of either version writes, the other one reads."""
    config = Config(str(ROOT / "alembic.ini"))
    command.downgrade(config, "0041")
    with database.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))  # an image and nothing else
        for stage in (0, 2, 5):
            connection.execute(text(_IMAGE.format("stage", ":stage")), {"stage": stage})
    command.upgrade(config, "0042")
    assert _passed(database) == [(0, None), (2, "classify"), (5, "report")]
    for change in (
        "stage = 3 WHERE stage = 2",
        "passed = NULL WHERE stage = 5",
        "path = 'b' WHERE stage = 3",
    ):
        with database.begin() as connection:
            connection.execute(text(f"UPDATE images SET {change}"))
    assert _passed(database) == [(0, None), (3, "detect"), (0, None)]
    command.upgrade(config, "head")


_IMAGE = (
    "INSERT INTO images (id, site_id, batch_id, path, sha256, size, {})"
    " VALUES (gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'a', repeat('0', 64), 1, {})"
)


def _passed(database: Engine) -> list[tuple[int, str | None]]:
    with database.connect() as connection:
        rows = connection.execute(text("SELECT stage, passed FROM images ORDER BY seq"))
        return [(row.stage, row.passed) for row in rows]


def test_what_came_after_a_kept_head_is_checked_by_itself(database: Engine) -> None:
    with database.begin() as connection:
        connection.execute(text("INSERT INTO sites (id, name) VALUES (gen_random_uuid(), 'A')"))
    heads = []
    for _ in range(6):
        with database.begin() as connection:
            connection.execute(text("INSERT INTO audit (site_id, action) SELECT id, 'test' FROM sites"))
        with database.connect() as connection:
            heads.append(audit.chain_head(connection))
    with database.connect() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        assert [audit.broken_links(connection, most=9, since=head) for head in heads] == [[]] * 6
        connection.execute(
            text("UPDATE audit SET action = 'other' WHERE id = (SELECT max(id) - 1 FROM audit)")
        )
        assert audit.broken_links(connection, most=9, since=heads[5]) == []  # before it: the whole check's
        assert len(audit.broken_links(connection, most=9, since=heads[3])) == 1
        assert len(audit.broken_links(connection, most=9)) == 1
        connection.execute(text("UPDATE audit_chain SET hash = 'x' WHERE seq = 2"))
        assert "no longer leads" in audit.broken_links(connection, most=9, since=heads[1])[0][1]
        with pytest.raises(ValueError, match="invalid literal"):
            audit.broken_links(connection, most=9, since="the last one")
