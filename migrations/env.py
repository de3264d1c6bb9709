"""Runs the migrations on the database that the settings name, one process at a time."""

from __future__ import annotations

from alembic import context
from sqlalchemy import text

from store.research_tables import Dataset  # noqa: F401 - its tables belong to Base
from store.review_tables import Review  # noqa: F401 - its table belongs to Base
from store.session import get_engine
from store.tables import Base
from store.worklist_tables import WorklistRow  # noqa: F401 - its tables belong to Base

ADVISORY_LOCK = 7211

if context.is_offline_mode():
    context.configure(dialect_name="postgresql", target_metadata=Base.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    with get_engine().connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": ADVISORY_LOCK})
        connection.execute(text("SET statement_timeout = 0"))
        connection.commit()
        context.configure(connection=connection, target_metadata=Base.metadata, compare_server_default=True)
        with context.begin_transaction():
            context.run_migrations()
        connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": ADVISORY_LOCK})
        connection.commit()
