"""Alembic's entry: runs the revisions on the connection that ``catalog.database.migrate`` hands over."""

from __future__ import annotations

from alembic import context

from icecore.catalog.tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
with connection.begin(), context.begin_transaction():
    context.run_migrations()
