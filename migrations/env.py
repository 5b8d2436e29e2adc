"""Alembic's entry: runs the migrations on the connection that `app.store.migrate` hands over.

There is no alembic.ini, and no offline mode: the settings of the service say where the database is.
"""

from __future__ import annotations

from alembic import context

from app.store.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    # SQLite cannot alter most things of a table; batch mode copies the table instead.
    render_as_batch=True,
    # Alembic thinks that SQLite has no transactional DDL, because its driver used to commit before DDL. Ours does not
    # (see app/store/engine.py): a migration that fails leaves nothing behind.
    transactional_ddl=True,
)
context.run_migrations()
