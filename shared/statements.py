"""The statements of `queries.sql`, by name."""

from pathlib import Path

from shared.sql import load_statements

STATEMENTS = load_statements(Path(__file__).with_name("queries.sql"))
