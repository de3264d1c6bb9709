"""Runs the migrations on the database that the settings name, one process at a time."""

from __future__ import annotations

from alembic import context
from sqlalchemy import text

from settings import get_settings
from store.base.advisory_locks import AdvisoryLock, wait_for_lock
from store.base.database_roles import grant_application
from store.base.session import own_connection
from store.base.tables import Base
from store.bundles.bundle_tables import Promotion  # noqa: F401 - its tables belong to Base
from store.intake.gateway_tables import GatewaySite  # noqa: F401 - its tables belong to Base
from store.intake.poll_sources import PollSource  # noqa: F401 - its tables belong to Base
from store.operations.drift_tables import DriftDay  # noqa: F401 - its tables belong to Base
from store.outgoing.delivery_tables import Delivery  # noqa: F401 - its tables belong to Base
from store.reading.review_tables import Review  # noqa: F401 - its table belongs to Base
from store.reading.worklist_tables import WorklistRow  # noqa: F401 - its tables belong to Base
from store.research.research_tables import Dataset  # noqa: F401 - its tables belong to Base

#: How long a change of a table waits for those who use it: they wait behind it for as long.
LOCK_TIMEOUT = "20s"

if context.is_offline_mode():
    context.configure(dialect_name="postgresql", target_metadata=Base.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    with own_connection(autocommit=False, as_owner=True) as connection:
        context.configure(connection=connection, target_metadata=Base.metadata, compare_server_default=True)
        with context.begin_transaction():
            # Whoever comes second waits for the first, however long that takes. All of it ends with the
            # transaction: a connection of the pool keeps neither the lock nor the limits.
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text("SET LOCAL lock_timeout = 0"))
            wait_for_lock(connection, AdvisoryLock.MIGRATIONS)
            connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
            context.run_migrations()
            grant_application(connection, get_settings())
