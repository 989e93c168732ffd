"""Real processes, really killed: between an attempt's record and the attempt, and between Stripe's yes and the mark."""

import os
import signal
import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest
import redis

from devstack.serving import Answer, Served, fire
from devstack.stripe_account import Account
from devstack.stripe_server import StripeServer
from tests.support.clock import NOON
from tests.support.database import TestDatabase
from tests.support.redis import lose_everything
from tests.support.serving import Functions
from tests.support.stripe import PERIOD_START, TAKEOVER
from tests.support.wait import until

HOUR = timedelta(hours=1)
EVENTS = 40


class Line:
    """Two function processes on one database and one Stripe account, on one clock."""

    def __init__(self, database: TestDatabase, functions: Functions, server: StripeServer, account: Account) -> None:
        self.database = database
        self.account = account
        self.functions = functions
        self.settings = {
            "STRIPE_SECRET_KEY": account.secret_key,
            "STRIPE_METER_PAGES": account.meter.id,
            "STRIPE_API_BASE": server.url,
            "STRIPE_TAKEOVER_AT": TAKEOVER,
            "STRIPE_RATE": "1000",
            "STRIPE_READ_RATE": "1000",
            "LOCK_TTL_SECONDS": "2",
        }
        for name in ("ann", "bob"):
            account.add_customer(f"cus_{name}")
            end = NOON + timedelta(days=20)
            database.account(name, "pro", PERIOD_START, end, stripe_customer_id=f"cus_{name}")
        database.execute(
            "INSERT INTO usage_events (user_id, pages, occurred_at, source) SELECT "
            "CASE WHEN mod(n, 2) = 0 THEN 'ann' ELSE 'bob' END, 1, CAST(:at AS timestamptz) - n * interval '1 minute', "
            "'x' FROM generate_series(1, CAST(:count AS integer)) AS n",
            at=NOON - HOUR,
            count=EVENTS,
        )

    def serve(self) -> Served:
        return self.functions.serve(dict(self.settings), target="stripe_reconcile")

    def fire(self, served: Served) -> Answer:
        return fire(served.url, job="stripe_reconcile", slot=NOON)

    def fire_and_kill(self, served: Served, moment: str) -> None:
        """Fire, and kill the process when the SQL condition has become true."""

        def firing() -> None:
            try:
                self.fire(served)
            except OSError:
                return  # it was killed: that is what this is about

        thread = threading.Thread(target=firing, daemon=True)
        thread.start()
        until(lambda: self.database.value(moment), moment)
        os.kill(served.worker_pid(), signal.SIGKILL)
        thread.join(30)

    def hold_rows_that_become(self, state: str) -> None:
        """A transaction that puts a row into the state waits for as long as somebody holds lock 4711."""
        self.database.script(
            "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "PERFORM set_config('lock_timeout', '60s', true); PERFORM pg_advisory_xact_lock_shared(4711); "
            "RETURN NEW; END $$"
        )
        self.database.script(
            "CREATE TRIGGER hold BEFORE UPDATE ON maintenance.meter_sends FOR EACH ROW "
            f"WHEN (NEW.state = '{state}') EXECUTE FUNCTION hold()"
        )

    def states(self) -> dict[str, int]:
        rows = self.database.rows("SELECT state, count(*) AS n FROM maintenance.meter_sends GROUP BY state")
        return {row["state"]: row["n"] for row in rows}

    def finish(self, client: "redis.Redis") -> None:
        """The next attempt of the firing, in another process: all is there, once."""
        until(
            lambda: (
                not self.database.value(
                    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'bytereview-maintenance' "
                    "AND datname = current_database() AND state <> 'idle'"
                )
            ),
            "the server has noticed",
        )
        lose_everything(client)
        self.account.faults.clear()
        answer = self.fire(self.serve())
        assert (answer.status, answer.fields["status"]) == (200, "completed"), answer.fields
        assert self.states() == {"accepted": EVENTS}
        assert self.database.value("SELECT count(*) FROM usage_events WHERE NOT stripe_reported") == 0
        assert len(self.account.events) == len({each.identifier for each in self.account.events}) == EVENTS
        statuses = [row["status"] for row in self.database.rows("SELECT status FROM maintenance.runs ORDER BY id")]
        assert statuses == ["lost", "completed"]


@pytest.fixture
def line(database: TestDatabase, functions: Functions) -> Iterator[Line]:
    account = Account(functions.clock)
    with StripeServer(account) as server:
        yield Line(database, functions, server, account)


HELD = "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
SENDING = "SELECT count(*) > 0 FROM maintenance.meter_sends WHERE state = 'sending'"


def test_killed_while_stripe_has_not_answered_yet(line: Line, redis_client: "redis.Redis") -> None:
    """Some are at Stripe, some are not, and all of them are on record as under way."""
    line.account.faults.add("hang", times=1, accept=True)
    line.account.faults.add("hang", times=1, accept=False)
    line.fire_and_kill(line.serve(), SENDING)
    assert set(line.states()) == {"sending", "pending"} or set(line.states()) == {"sending"}
    line.finish(redis_client)


def test_killed_after_stripe_has_taken_some_and_before_anything_is_marked(
    line: Line, redis_client: "redis.Redis"
) -> None:
    """The settling transaction waits for a lock that the test holds: Stripe's answers are in, and the mark is not."""
    line.hold_rows_that_become("accepted")
    with line.database.engine.connect() as holder:
        holder.exec_driver_sql("SELECT pg_advisory_lock(4711)")
        line.fire_and_kill(line.serve(), HELD)
        assert line.account.events
        assert line.database.value("SELECT count(*) FROM usage_events WHERE stripe_reported") == 0
        holder.exec_driver_sql("SELECT pg_advisory_unlock(4711)")
    line.finish(redis_client)


def test_killed_between_deciding_and_sending(line: Line, redis_client: "redis.Redis") -> None:
    line.hold_rows_that_become("sending")
    with line.database.engine.connect() as holder:
        holder.exec_driver_sql("SELECT pg_advisory_lock(4711)")
        line.fire_and_kill(line.serve(), HELD)
        assert line.states() == {"pending": EVENTS}
        assert line.account.events == []
        holder.exec_driver_sql("SELECT pg_advisory_unlock(4711)")
    line.finish(redis_client)


def test_stopped_while_sending_and_taken_over_it_writes_nothing_after(line: Line, redis_client: "redis.Redis") -> None:
    """SIGSTOP past the lock's time; another run finishes; SIGCONT: it ends as fenced, and nothing is billed twice."""
    line.account.faults.add("slow", times=3, seconds=1)
    served = line.serve()
    answers: list[Answer] = []
    thread = threading.Thread(target=lambda: answers.append(line.fire(served)), daemon=True)
    thread.start()
    until(lambda: line.database.value(SENDING), "it is sending")
    os.kill(served.worker_pid(), signal.SIGSTOP)
    lose_everything(redis_client)
    line.account.faults.clear()
    second = line.fire(line.serve())
    assert (second.status, second.fields["status"]) == (200, "completed"), second.fields
    before = line.database.host_checksum()
    os.kill(served.worker_pid(), signal.SIGCONT)
    thread.join(60)
    assert answers[0].fields["status"] in ("fenced", "replayed"), answers[0].fields
    assert line.database.host_checksum() == before
    assert len(line.account.events) == len({each.identifier for each in line.account.events}) == EVENTS
