"""Usage that must be looked for at Stripe before it is sent: how many reads that takes, and whether it is right."""

from dataclasses import replace
from datetime import timedelta

from rich.console import Console
from sqlalchemy import Connection, text

from benchmarks.arena import Arena, connected
from benchmarks.child import run_module
from benchmarks.figures import Figure
from benchmarks.stripe_standin import Sent, StandIn
from benchmarks.stripe_usage import Users, add_events, paid, settings, usage_database, usage_template
from shared.clock import SystemClock

_EVENTS_A_CUSTOMER = 20
_DAYS = timedelta(days=3)
# Events that wait for an hour before their absence is believed; these have.
_NEWEST = timedelta(hours=2)
# Of one customer in five: pages that the service has reported itself in that time, and as many that we have.
_ACCEPTED_SHARE, _ACCEPTED_EACH = 5, 10

# Half of them, by chance, and always the same.
_IS_THERE = "substr(md5('there' || event.id), 1, 1) < '8'"
_AT_STRIPE = f"""
SELECT
    account.stripe_customer_id AS customer, event.pages, send.identifier,
    event.occurred_at + CASE
        WHEN send.identifier IS NULL
        THEN CAST(CAST('x' || substr(md5('delay' || event.id), 1, 4) AS bit(16)) AS integer) / 65536.0
            * interval '20 seconds'
        ELSE interval '0'
    END AS at
FROM usage_events AS event
JOIN billing_accounts AS account USING (user_id)
LEFT JOIN maintenance.meter_sends AS send ON send.usage_event_id = event.id
WHERE event.stripe_reported OR {_IS_THERE}
"""  # noqa: S608  nothing of anybody else's is in it
# Events that were reported already become ours: as if an earlier run had sent them.
_MAKE_OURS = """
WITH ours AS (
    UPDATE usage_events AS event
    SET stripe_record_id = CAST(event.id AS text)
    WHERE stripe_reported AND substr(md5('ours' || event.id), 1, 1) < '8'
    RETURNING event.*
)
INSERT INTO maintenance.meter_sends
    (usage_event_id, user_id, stripe_customer_id, event_name, identifier, occurred_at, value, state, invoice_closes_at,
     attempts, first_sent_at, last_sent_at, accepted_at, verified_at)
SELECT
    ours.id, ours.user_id, account.stripe_customer_id, 'pages', CAST(ours.id AS text), ours.occurred_at, ours.pages,
    'accepted', account.current_period_end + interval '1 hour', 1, ours.occurred_at + interval '1 hour',
    ours.occurred_at + interval '1 hour', ours.occurred_at + interval '1 hour', CAST(:now AS timestamptz)
FROM ours
JOIN billing_accounts AS account USING (user_id)
"""
# What became of the events in question, each as it should be, open, or wrong.
_FOUND = f"""
SELECT
    count(*) FILTER (WHERE is_open) AS open,
    count(*) FILTER (WHERE NOT is_open AND (NOT is_accepted OR attempts <> CAST(NOT is_there AS integer))) AS wrong
FROM (
    SELECT
        {_IS_THERE} AS is_there, send.attempts, send.state = 'accepted' AND event.stripe_reported AS is_accepted,
        send.state IN ('pending', 'in_doubt') AND send.attempts = 0 AND NOT event.stripe_reported AS is_open
    FROM usage_events AS event
    JOIN maintenance.meter_sends AS send ON send.usage_event_id = event.id
    WHERE send.verified_at IS NULL
) AS question
"""  # noqa: S608
# What Stripe must have in the end. What is open is there or not.
_EXPECTED = f"""
SELECT account.stripe_customer_id AS customer, sum(event.pages) AS pages
FROM usage_events AS event
JOIN billing_accounts AS account USING (user_id)
WHERE event.stripe_reported OR {_IS_THERE}
GROUP BY account.stripe_customer_id
"""  # noqa: S608


def measure_evidence(arena: Arena, events: int, console: Console) -> list[Figure]:
    """Look for all events at a stand-in that has half of them, send the others, and hold its sums against ours."""
    questions = paid(max(1, events // _EVENTS_A_CUSTOMER), _EVENTS_A_CUSTOMER, oldest=_DAYS, newest=_NEWEST)
    customers = questions.users
    total = questions.users * questions.events
    console.print(f"Making {total:,} events of {customers} customers, and giving half of them to Stripe …")
    with (
        usage_template(arena, "bench_evidence", [questions]) as template,
        usage_database(arena, template) as url,
        connected(url) as connection,
        StandIn(0) as stand_in,
    ):
        reported = _add_accepted(connection, questions)
        there = [Sent(row.customer, row.pages, row.at, row.identifier) for row in connection.execute(text(_AT_STRIPE))]
        accepted = sum(1 for each in there if each.identifier is not None)
        connection.commit()
        stand_in.put(there)
        environ = settings(arena, url, stand_in, STRIPE_RATE="800", STRIPE_READ_RATE="1000")
        measured = run_module("benchmarks.stripe_child", "job", settings=environ)
        found = connection.execute(text(_FOUND)).one()
        sums_differ = sum(
            int(row.pages) != stand_in.counted(row.customer) for row in connection.execute(text(_EXPECTED))
        )
        sent = sum(stand_in.received_per_second().values()) - len(there)
    present = len(there) - reported
    reads = {name: measured["reads"].get(name, 0) for name in ("hours", "minutes", "periods")}
    console.print(
        f"  {present:,} of {total:,} were there, {sent:,} were sent, {found.open:,} are open, "
        f"in {measured['seconds']:.1f} s; "
        f"reads: {reads['hours']:,} in hours, {reads['minutes']:,} in minutes, {reads['periods']:,} by the audit; "
        f"{reported:,} accepted pages' events around them, {accepted:,} of those ours",
        soft_wrap=True,
    )
    part = f"Evidence for {total:,} events of {customers} customers, half of them at Stripe"
    looked = reads["hours"] + reads["minutes"]
    return [
        Figure(part, "reads of sums an event", looked / total, "", 0.2, digits=3),
        Figure(part, "events sent that were there, or taken for sent that were not", found.wrong, "", 0, digits=0),
        Figure(part, "customers whose pages at Stripe are not what they should be", sums_differ, "", 0, digits=0),
        # Two within the same minutes, of which Stripe has one: the sums cannot tell which.
        Figure(part, "events left open", found.open, "", digits=0),
        Figure(part, "the audit's reads", reads["periods"], "", digits=0),
        Figure(part, "time", measured["seconds"], "s"),
        Figure(part, "longest writing transaction", measured["longest_writing"], "s", digits=2),
    ]


def _add_accepted(connection: Connection, questions: Users) -> int:
    """Add what is at Stripe and on record so; give how many events that is."""
    now = SystemClock().now()
    users = questions.users // _ACCEPTED_SHARE
    around = replace(questions, users=users, events=2 * _ACCEPTED_EACH)
    add_events(connection, around, now, what="accepted", is_reported=True)
    connection.execute(text(_MAKE_OURS), {"now": now})
    return users * around.events
