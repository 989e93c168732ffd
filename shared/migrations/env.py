"""Alembic's environment: it runs on the connection that it is given, inside that connection's transaction."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table_schema="maintenance",
    # The transaction is the caller's: all of it or nothing.
    transaction_per_migration=False,
)
context.run_migrations()
