"""Alembic's environment: it runs on the connection that it is given, inside that connection's transaction.

Offline it connects to nothing, and writes the statements down.
"""

from alembic import context

_SCHEMA = "maintenance"

if context.is_offline_mode():
    context.configure(dialect_name="postgresql", version_table_schema=_SCHEMA)
else:
    context.configure(
        connection=context.config.attributes["connection"],
        # The transaction is the caller's: all of it or nothing.
        transaction_per_migration=False,
        version_table_schema=_SCHEMA,
    )
context.run_migrations()
