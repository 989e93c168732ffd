"""Files of the project that the handbook publishes as they are."""

from pathlib import Path

SCHEMA = Path(__file__).resolve().parents[1] / "ops" / "output.schema.json"
