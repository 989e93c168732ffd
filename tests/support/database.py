"""A database for a test, and short ways to fill it and look into it."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, event, text

from ops.engine import make_engine
from shared.database_url import database_target


def _name_session(connection: Any, _: object) -> None:
    """Let the test's own sessions be told apart from those of the code under test."""
    cursor = connection.cursor()
    cursor.execute("SET application_name TO 'a test'")
    cursor.close()
    connection.commit()


class TestDatabase:
    """One database with the service's tables and our schema."""

    __test__ = False

    def __init__(self, url: str) -> None:
        self.url = url
        self.target = database_target({"DATABASE_URL": url})
        self.engine: Engine = make_engine(self.target, {"TimeZone": "UTC", "lock_timeout": "20000"})
        event.listen(self.engine, "connect", _name_session)

    def rows(self, sql: str, **parameters: object) -> Sequence[Mapping[str, Any]]:
        """Run a query; give its rows."""
        with self.engine.connect() as connection:
            return [dict(row) for row in connection.execute(text(sql), parameters).mappings()]

    def row(self, sql: str, **parameters: object) -> Mapping[str, Any]:
        """Run a query; give its only row."""
        (row,) = self.rows(sql, **parameters)
        return row

    def value(self, sql: str, **parameters: object) -> Any:
        """Run a query; give its only value."""
        (value,) = self.row(sql, **parameters).values()
        return value

    def execute(self, sql: str, **parameters: object) -> int:
        """Run and commit a statement; give how many rows it touched."""
        with self.engine.begin() as connection:
            return connection.execute(text(sql), parameters).rowcount

    def note_updates(self, table: str) -> None:
        """From now on count the UPDATE statements on a table, also those that find no row."""
        self.execute("CREATE TABLE noted_updates (at timestamptz)")
        self.script(
            "CREATE FUNCTION note_update() RETURNS trigger LANGUAGE plpgsql AS "
            "'BEGIN INSERT INTO noted_updates VALUES (clock_timestamp()); RETURN NULL; END'"
        )
        self.script(
            f"CREATE TRIGGER note_update AFTER UPDATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION note_update()"
        )

    def noted_updates(self) -> int:
        """How many there were in transactions that have committed."""
        return int(self.value("SELECT count(*) FROM noted_updates"))

    def script(self, sql: str) -> None:
        """Run and commit SQL as it stands, colons and all."""
        with self.engine.begin() as connection:
            connection.exec_driver_sql(sql)

    def account(
        self,
        user: str,
        plan: str = "free",
        start: datetime | None = None,
        end: datetime | None = None,
        **columns: object,
    ) -> None:
        """Add a user with a billing account."""
        self.execute("INSERT INTO users (id, email) VALUES (:id, :email)", id=user, email=f"{user}@example.com")
        names = ["user_id", "plan_code", "current_period_start", "current_period_end", "updated_at", *columns]
        self.execute(
            f"INSERT INTO billing_accounts ({', '.join(names)}) VALUES ({', '.join(f':{name}' for name in names)})",
            **{
                "user_id": user,
                "plan_code": plan,
                "current_period_start": start,
                "current_period_end": end,
                "updated_at": datetime.fromisoformat("2020-01-01T00:00:00Z"),
                **columns,
            },
        )

    def use(self, user: str, start: datetime, pages: int) -> None:
        """Add a usage counter."""
        self.execute(
            "INSERT INTO usage_counters (user_id, period_start, period_end, pages_total) VALUES (:u, :s, :s, :p)",
            u=user,
            s=start,
            p=pages,
        )

    def period(self, user: str) -> tuple[datetime | None, datetime | None]:
        """An account's period."""
        row = self.row(
            "SELECT current_period_start s, current_period_end e FROM billing_accounts WHERE user_id = :u", u=user
        )
        return row["s"], row["e"]

    def counters(self, user: str) -> dict[datetime, int]:
        """A user's pages by period start."""
        rows = self.rows("SELECT period_start s, pages_total p FROM usage_counters WHERE user_id = :u", u=user)
        return {row["s"]: row["p"] for row in rows}

    def host_checksum(self) -> str:
        """One value that changes with any change to any of the service's rows that the jobs may touch."""
        parts = []
        for table in ("users", "billing_accounts", "usage_counters", "usage_events", "subscription_plans"):
            parts.append(
                self.value(f"SELECT md5(coalesce(string_agg(t::text, '|' ORDER BY t::text), '')) v FROM {table} AS t")
            )
        return " ".join(parts)
