"""`ops stripe audit`: our pages held against Stripe's sums, on demand."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import Result

from ops.commands.stripe_audit import period_of
from ops.shell import NO, WRONG
from tests.support.clock import NOON
from tests.support.stripe import StripeWorld, add_send, told

HOUR, DAY = timedelta(hours=1), timedelta(days=1)

Ops = Callable[..., Result]


@pytest.fixture
def billed(world: StripeWorld) -> StripeWorld:
    """Two customers with five pages each that Stripe has since two hours, by the real clock."""
    now = datetime.now(UTC)
    world.clock.set(now - 2 * HOUR)
    start = (now - 10 * DAY).replace(minute=7, second=0, microsecond=0)
    for name in ("ann", "bob"):
        world.user(name)
        world.database.execute(
            "INSERT INTO usage_counters (user_id, period_start, period_end, pages_total) VALUES (:u, :s, :e, 5)",
            u=name,
            s=start,
            e=start + 30 * DAY,
        )
        world.usage(name, 5, at=now - 3 * HOUR)
    world.database.execute(
        "UPDATE billing_accounts SET current_period_start = :s, current_period_end = :e", s=start, e=start + 30 * DAY
    )
    assert world.run().counts["success_count"] == 2
    # What the run itself has seen is not to be seen by the audit of the operator's.
    world.database.execute("DELETE FROM maintenance.drift")
    return world


def settings_of(world: StripeWorld) -> dict[str, str | None]:
    return {**world.settings(), "STRIPE_READ_RATE": "20"}


def test_the_audit_holds_our_pages_against_stripes_sums_and_writes_nothing(billed: StripeWorld, ops: Ops) -> None:
    settings = settings_of(billed)
    ours = (
        "SELECT (SELECT count(*) FROM maintenance.drift) AS drift, (SELECT count(*) FROM maintenance.runs) AS runs, "
        "(SELECT string_agg(CAST(s AS text), ' ') FROM maintenance.meter_sends AS s) AS sends"
    )
    before = billed.database.row(ours)
    assert ops("stripe", "audit", **settings).stdout == "2 customers are equal, in 2 periods. --all shows them.\n"
    done = ops("stripe", "audit", "--json", **settings)
    assert done.exit_code == 0
    assert [(row["customer"], row["ours"], row["open"], row["theirs"], row["says"]) for row in told(done)] == [
        ("cus_ann", 5, 0, 5, "equal"),
        ("cus_bob", 5, 0, 5, "equal"),
    ]
    payload = {"stripe_customer_id": "cus_bob", "value": "2"}
    billed.stripe.receive("pages", payload, None, int(billed.clock.now().timestamp()) - 60)
    different = ops("stripe", "audit", **settings, COLUMNS="200")
    assert different.exit_code == NO
    heading, *lines, equal = different.stdout.splitlines()
    assert heading.split()[2:-1] == ["OUR", "PAGES", "OPEN", "PAGES", "STRIPE'S", "PAGES"]
    assert [line.split()[-4:] for line in lines] == [["5", "0", "7", "differs"]]
    assert equal == "1 customer is equal, in 1 period. --all shows them."
    assert len(told(ops("stripe", "audit", "--json", **settings))) == 2
    everything = ops("stripe", "audit", "--all", **settings, COLUMNS="200").stdout.splitlines()[1:]
    assert [line.split()[-4:] for line in everything] == [["5", "0", "5", "equal"], ["5", "0", "7", "differs"]]
    one = ops("stripe", "audit", "--customer", "cus_ann", **settings)
    assert (one.exit_code, one.stdout.splitlines()[-1].split()[-1]) == (0, "equal")
    assert len(told(ops("stripe", "audit", "--limit", "1", "--json", **settings))) == 1
    assert billed.database.row(ours) == before


@pytest.mark.parametrize(
    ("start", "hours", "said"),
    [
        (NOON, 2, "2026-05-15 12:00 to 14:00"),
        (NOON, 13, "2026-05-15 12:00 to 2026-05-16 01:00"),
        (NOON, 24, "2026-05-15 to 2026-05-16"),
    ],
)
def test_a_period_has_its_end(start: datetime, hours: int, said: str) -> None:
    assert period_of(start, start + hours * HOUR) == said


def test_the_audit_takes_the_periods_that_touch_a_month(billed: StripeWorld, ops: Ops) -> None:
    settings = settings_of(billed)
    now = datetime.now(UTC)
    this, long_ago = f"{now - 10 * DAY:%Y-%m}", f"{now - 400 * DAY:%Y-%m}"
    assert len(told(ops("stripe", "audit", "--month", this, "--json", **settings))) == 2
    none = ops("stripe", "audit", "--month", long_ago, **settings)
    assert (none.exit_code, none.stdout) == (0, "There is nothing to hold against Stripe's sums.\n")
    then = now - 400 * DAY
    add_send(billed.database, "accepted", occurred_at=then, accepted_at=then, event=False)
    lost = json.loads(ops("stripe", "audit", "--month", long_ago, "--json", **settings).stdout)
    assert [(row["ours"], row["theirs"], row["says"]) for row in lost] == [(5, 0, "differs")]
    assert len(told(ops("stripe", "audit", "--month", this, "--json", **settings))) == 2
    assert len(told(ops("stripe", "audit", "--json", **settings))) == 3
    future = ops("stripe", "audit", "--month", "9999-12", **settings)
    assert (future.exit_code, future.stderr) == (
        WRONG,
        f"The month 9999-12 has not begun. Name {now:%Y-%m} or an earlier one.\n",
    )


def test_what_the_audit_cannot_read_is_told(billed: StripeWorld, ops: Ops) -> None:
    settings = settings_of(billed)
    billed.database.execute("UPDATE billing_accounts SET stripe_customer_id = 'cus_none' WHERE user_id = 'bob'")
    unknown = ops("stripe", "audit", "--customer", "cus_none", "--json", **settings)
    ((row,), code) = json.loads(unknown.stdout), unknown.exit_code
    assert (row["theirs"], "No such customer" in row["says"], code) == (None, True, NO)
    nobody = ops("stripe", "audit", "--customer", "cus_other", **settings)
    assert nobody.exit_code == WRONG
    assert nobody.stderr.startswith("No account has the customer cus_other, ")
    assert "Check the id" in nobody.stderr
    meter = ops("stripe", "audit", **{**settings, "STRIPE_METER_PAGES": "mtr_none"})
    assert (meter.exit_code, "Stripe knows no meter mtr_none" in meter.stderr) == (WRONG, True)
    unset = ops("stripe", "audit")
    assert (unset.exit_code, "STRIPE_SECRET_KEY is not set" in unset.stderr) == (WRONG, True)
