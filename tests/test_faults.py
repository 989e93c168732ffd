"""Servers that go away, processes that are stopped or killed: on real processes, at chosen moments.

The moments are chosen by triggers and locks in the database, and by what pg_stat_activity shows; nothing is timed.
"""

import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from devstack.accounts import add_accounts
from devstack.serving import Answer, Served
from devstack.stack import Stack
from devstack.valkey import ValkeyServer
from shared.settings import RedisTarget
from tests.support.clock import NOON
from tests.support.database import TestDatabase
from tests.support.serving import Functions, firing, request
from tests.support.wait import until

MAY = datetime(2026, 5, 1, tzinfo=UTC)
APRIL = datetime(2026, 4, 1, tzinfo=UTC)
APRIL_END = datetime(2026, 4, 30, 23, 59, 59, tzinfo=UTC)
NEXT = NOON + timedelta(hours=2)
SHORT_LOCK = {"LOCK_TTL_SECONDS": "2"}

# A batch that reaches the user 'stop here' waits inside its transaction for as long as somebody holds lock 4711.
HOLD_INSIDE = (
    """
    CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.user_id = 'stop here' THEN
            PERFORM set_config('lock_timeout', '60s', true);
            PERFORM pg_advisory_xact_lock_shared(4711);
        END IF;
        RETURN NEW;
    END $$
    """,
    "CREATE TRIGGER hold BEFORE UPDATE ON billing_accounts FOR EACH ROW EXECUTE FUNCTION hold()",
)
INSIDE = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


class Firing:
    """A firing in the background; its answer may never come."""

    def __init__(self, served: Served, slot: datetime = NOON) -> None:
        self.answer: Answer | None = None
        self._thread = threading.Thread(target=self._fire, args=(served, slot), daemon=True)
        self._thread.start()

    def _fire(self, served: Served, slot: datetime) -> None:
        try:
            self.answer = firing(served, slot)
        except OSError:
            self.answer = None  # the server was killed: that is the test's business

    def result(self) -> Answer:
        self._thread.join(90)
        assert self.answer is not None, "no answer came"
        return self.answer


def moved(database: TestDatabase) -> int:
    return int(database.value("SELECT count(*) FROM billing_accounts WHERE current_period_start = :m", m=MAY))


def half_done(database: TestDatabase) -> int:
    """Accounts moved without their counter, or counters made without their account being moved."""
    return int(
        database.value(
            "SELECT count(*) FROM billing_accounts a "
            "FULL JOIN (SELECT * FROM usage_counters WHERE period_start = :m) c "
            "USING (user_id) WHERE (a.current_period_start IS NOT DISTINCT FROM :m) <> (c.user_id IS NOT NULL)",
            m=MAY,
        )
    )


@pytest.fixture
def accounts(database: TestDatabase) -> TestDatabase:
    """More due accounts than fit into one batch, and one at which a batch can be held."""
    with database.engine.begin() as connection:
        add_accounts(connection, "free and due", 7_000, NOON)
    # The last key in the order of keys, so that a whole batch is committed before the one that is held.
    database.account("stop here", "free", APRIL, APRIL_END)
    for statement in HOLD_INSIDE:
        database.script(statement)
    return database


# ---- SIGSTOP


def test_a_run_stopped_inside_a_transaction_is_taken_over_and_writes_nothing_after(
    accounts: TestDatabase, functions: Functions
) -> None:
    served, other = functions.serve(SHORT_LOCK), functions.serve(SHORT_LOCK)
    with accounts.engine.connect() as holder:
        holder.execute(text("SELECT pg_advisory_lock(4711)"))
        first = Firing(served)
        until(lambda: accounts.value(INSIDE), "the first run is inside its second batch")
        os.kill(served.worker_pid(), signal.SIGSTOP)
        holder.execute(text("SELECT pg_advisory_unlock(4711)"))
    # Its statement ends, its transaction stays open: the server ends it within idle_in_transaction_session_timeout.
    second = firing_until_not_busy(other, NEXT)
    assert (second.status, second.fields["status"]) == (200, "completed")
    assert moved(accounts) == 7_001
    before = accounts.host_checksum()
    os.kill(served.worker_pid(), signal.SIGCONT)
    answer = first.result()
    assert (answer.status, answer.fields["status"], answer.fields["success"]) == (409, "fenced", False)
    assert accounts.host_checksum() == before
    assert half_done(accounts) == 0
    statuses = [row["status"] for row in accounts.rows("SELECT status FROM maintenance.runs ORDER BY id")]
    assert statuses == ["lost", "completed"]


def test_a_run_stopped_between_transactions_is_taken_over_and_writes_nothing_after(
    accounts: TestDatabase, functions: Functions
) -> None:
    served, other = functions.serve(SHORT_LOCK), functions.serve(SHORT_LOCK)
    with accounts.engine.connect() as holder:
        holder.execute(text("SELECT 1 FROM billing_accounts WHERE user_id = 'stop here' FOR UPDATE"))
        first = Firing(served)
        until(lambda: moved(accounts) == 7_000, "all but the locked account are moved")
        # From here on it waits for the locked account, and looks again between pauses.
        os.kill(served.worker_pid(), signal.SIGSTOP)
        until(lambda: not open_transactions(accounts), "it holds no transaction")
        holder.rollback()
    second = firing_until_not_busy(other, NEXT)
    assert (second.status, second.fields["status"], second.fields["updated_count"]) == (200, "completed", 1)
    accounts.execute(
        "UPDATE billing_accounts SET current_period_start = :s, current_period_end = :e", s=APRIL, e=APRIL_END
    )
    before = accounts.host_checksum()
    os.kill(served.worker_pid(), signal.SIGCONT)
    answer = first.result()
    assert (answer.status, answer.fields["status"]) == (409, "fenced")
    assert accounts.host_checksum() == before


def open_transactions(database: TestDatabase) -> int:
    """Transactions of functions; the test's own sessions have another name."""
    return int(
        database.value(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'bytereview-maintenance' "
            "AND datname = current_database() AND state <> 'idle'"
        )
    )


def firing_until_not_busy(served: Served, slot: datetime) -> Answer:
    """Fire as Cloud Scheduler does, again after every busy."""
    answers: list[Answer] = []

    def fired() -> bool:
        answers.append(firing(served, slot))
        return bool(answers[-1].fields["status"] != "busy")

    until(fired, "the lock of the stopped run became free", seconds=40)
    return answers[-1]


# ---- kill -9


def test_a_run_killed_in_the_middle_of_a_batch_is_finished_by_the_next_attempt(
    accounts: TestDatabase, functions: Functions
) -> None:
    served = functions.serve(SHORT_LOCK)
    with accounts.engine.connect() as holder:
        holder.execute(text("SELECT pg_advisory_lock(4711)"))
        Firing(served)
        until(lambda: accounts.value(INSIDE), "the run is inside its second batch")
        os.kill(served.worker_pid(), signal.SIGKILL)
        holder.execute(text("SELECT pg_advisory_unlock(4711)"))
    until(lambda: not open_transactions(accounts), "the server noticed")
    assert moved(accounts) == 5_000
    assert half_done(accounts) == 0
    answer = firing_until_not_busy(served, NOON)
    assert (answer.fields["status"], answer.fields["updated_count"]) == ("completed", 7_001)
    assert (moved(accounts), half_done(accounts)) == (7_001, 0)


# ---- Redis


def test_redis_down_at_the_start_degrades_the_run(accounts: TestDatabase, functions: Functions) -> None:
    served = functions.serve({"REDIS_URL": "redis://:a-secret-of-redis@127.0.0.1:1/0"})
    answer = firing(served)
    assert (answer.status, answer.fields["status"], answer.fields["degraded"]) == (200, "completed", ["redis"])
    assert moved(accounts) == 7_001
    warnings = [line for line in served.log_lines() if line["event"] == "degraded"]
    assert [line["severity"] for line in warnings] == ["WARNING"]
    assert "a-secret-of-redis" not in served.log.read_text()
    replay = firing(served)
    assert replay.fields["status"] == "replayed"


def test_with_redis_down_one_job_still_runs_once_at_a_time(accounts: TestDatabase, functions: Functions) -> None:
    down = {"REDIS_URL": "redis://127.0.0.1:1/0"}
    served, other = functions.serve(down), functions.serve(down)
    with accounts.engine.connect() as holder:
        holder.execute(text("SELECT pg_advisory_lock(4711)"))
        first = Firing(served)
        until(lambda: accounts.value(INSIDE), "the run is inside its second batch")
        assert firing(other, NEXT).fields["status"] == "busy"
        holder.execute(text("SELECT pg_advisory_unlock(4711)"))
    assert first.result().fields["status"] == "completed"


def test_redis_lost_in_the_middle_degrades_the_run(
    accounts: TestDatabase, functions: Functions, own_redis: ValkeyServer
) -> None:
    served = functions.serve({**SHORT_LOCK, "REDIS_URL": own_redis.url})
    other = functions.serve({**SHORT_LOCK, "REDIS_URL": own_redis.url})
    with accounts.engine.connect() as holder:
        holder.execute(text("SELECT pg_advisory_lock(4711)"))
        first = Firing(served)
        until(lambda: accounts.value(INSIDE), "the run is inside its second batch")
        own_redis.stop()
        until(
            lambda: (
                accounts.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND granted")
                == 2
            ),
            "it holds PostgreSQL's locks instead",
        )
        assert firing(other, NEXT).fields["status"] == "busy"
        holder.execute(text("SELECT pg_advisory_unlock(4711)"))
    answer = first.result()
    assert (answer.status, answer.fields["status"], answer.fields["degraded"]) == (200, "completed", ["redis"])
    assert [line["event"] for line in served.log_lines()].count("degraded") == 1
    assert firing(served).fields["status"] == "replayed"


# ---- PostgreSQL


def test_postgres_down_is_503_in_a_sentence_without_the_password(functions: Functions) -> None:
    served = functions.serve({"DATABASE_URL": "postgresql://ann:s3cret%40pw@127.0.0.1:1/byte"})
    for answer in (firing(served), request(served, "GET")):
        assert (answer.status, answer.fields["status"], answer.fields["service"]) == (503, "unavailable", "postgres")
        assert int(answer.headers["Retry-After"]) > 0
        assert "PostgreSQL at 127.0.0.1:1 accepts no connection" in answer.fields["message"]
        assert "s3cret" not in str(answer.fields)
    assert "s3cret" not in served.log.read_text()
    assert "Traceback" not in served.log.read_text()


def test_a_connection_that_dies_in_the_middle_has_a_clear_outcome_and_the_next_firing_finishes(
    accounts: TestDatabase, functions: Functions
) -> None:
    served = functions.serve()
    with accounts.engine.connect() as holder:
        holder.execute(text("SELECT pg_advisory_lock(4711)"))
        first = Firing(served)
        until(lambda: accounts.value(INSIDE), "the run is inside its second batch")
        accounts.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid IN "
            "(SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)"
        )
        answer = first.result()
        holder.execute(text("SELECT pg_advisory_unlock(4711)"))
    assert (answer.status, answer.fields["status"], answer.fields["service"]) == (503, "unavailable", "postgres")
    assert answer.fields["updated_count"] == 5_000
    assert accounts.value("SELECT status FROM maintenance.runs") == "unavailable"
    again = firing(served)
    assert (again.fields["status"], again.fields["updated_count"]) == ("completed", 7_001)
    assert half_done(accounts) == 0


# ---- what answers is wrong


def answered(functions: Functions, url: str) -> Answer:
    served = functions.serve({"DATABASE_URL": url})
    answer = firing(served)
    assert "Traceback" not in served.log.read_text()
    return answer


def test_a_server_that_is_no_postgresql(functions: Functions, stack: Stack, database: TestDatabase) -> None:
    redis_port = stack.redis_url.rsplit(":", 1)[1].split("/")[0]
    answer = answered(functions, f"postgresql://ann:s3cret@127.0.0.1:{redis_port}/byte")
    assert (answer.status, answer.fields["status"], answer.fields["setting"]) == (500, "misconfigured", "DATABASE_URL")
    assert "is not PostgreSQL" in answer.fields["message"]
    del database


@pytest.mark.slow
def test_an_http_server_is_no_postgresql(functions: Functions, database: TestDatabase) -> None:
    del database
    url = functions.serve().url.removeprefix("http://")
    answer = answered(functions, f"postgresql://ann:s3cret@{url}/byte")
    assert (answer.status, answer.fields["status"]) == (500, "misconfigured")
    assert "is not PostgreSQL" in answer.fields["message"]


def test_a_server_that_takes_the_connection_and_never_answers(functions: Functions) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        answer = answered(functions, f"postgresql://ann:s3cret@127.0.0.1:{silent.getsockname()[1]}/byte")
    assert (answer.status, answer.fields["status"]) == (503, "unavailable")
    assert "did not answer" in answer.fields["message"]


@pytest.mark.parametrize(
    ("change", "setting", "sentence"),
    [
        (lambda url: url.replace("postgresql", "postgrse"), "DATABASE_URL", "does not begin with postgresql://"),
        (lambda url: url.rsplit("/", 1)[0] + "/no_such_db", "DATABASE_URL", "has no database 'no_such_db'"),
        (lambda url: url.replace("@127.0.0.1", "x@127.0.0.1"), "DATABASE_URL", "refused the login"),
        (lambda url: url + "?sslmode=require", "DATABASE_URL", "offers none"),
        (lambda _: "", "DATABASE_URL", "is not set"),
    ],
    ids=["scheme", "database", "password", "sslmode", "unset"],
)
def test_a_wrong_database_url_is_misconfigured(
    database: TestDatabase, functions: Functions, change: Callable[[str], str], setting: str, sentence: str
) -> None:
    answer = answered(functions, change(database.url))
    assert (answer.status, answer.fields["status"], answer.fields["setting"]) == (500, "misconfigured", setting)
    assert sentence in answer.fields["message"]
    password = database.target.password
    assert password is None or password not in str(answer.fields)


def test_a_database_without_our_schema_says_what_to_run(
    functions: Functions, make_database: Callable[[str | None], TestDatabase], service_template: str
) -> None:
    answer = answered(functions, make_database(service_template).url)
    assert (answer.status, answer.fields["status"]) == (500, "misconfigured")
    assert "python -m ops migrate" in answer.fields["message"]


def test_a_database_without_the_services_tables_says_so(database: TestDatabase, functions: Functions) -> None:
    database.execute("DROP TABLE billing_accounts")
    answer = answered(functions, database.url)
    assert (answer.status, answer.fields["status"]) == (500, "misconfigured")
    assert "billing_accounts" in answer.fields["message"]
    assert "service's own tables" in answer.fields["message"]


def test_a_login_without_the_rights_says_so(database: TestDatabase, functions: Functions) -> None:
    name = f"weak_{os.getpid()}"
    database.script(f"CREATE ROLE {name} LOGIN PASSWORD 'weak'")
    try:
        url = f"postgresql://{name}:weak@{database.target.host}:{database.target.port}/{database.target.database}"
        answer = answered(functions, url)
    finally:
        database.script(f"DROP ROLE {name}")
    assert (answer.status, answer.fields["status"]) == (500, "misconfigured")
    assert "Give it" in answer.fields["message"]


def test_a_wrong_password_for_redis_is_misconfigured(
    database: TestDatabase, functions: Functions, own_redis: ValkeyServer
) -> None:
    del database
    password = RedisTarget(own_redis.url).password
    assert password is not None
    served = functions.serve({"REDIS_URL": own_redis.url.replace(password, "wrong")})
    answer = firing(served)
    assert (answer.status, answer.fields["status"], answer.fields["setting"]) == (500, "misconfigured", "REDIS_URL")
