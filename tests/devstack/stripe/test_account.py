"""Totals, subscriptions, limits and keys of the stand-in's Stripe account are as Stripe documents them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from devstack.stripe_account import Account
from devstack.stripe_objects import Answer, Refused, billing_period
from tests.devstack.stripe.events import HOUR, send, summary
from tests.support.clock import NOON, ManualClock

SAVED = Answer(200, b"{}", {})


# Totals.


def test_counted_includes_the_start_and_excludes_the_end(account: Account) -> None:
    account.add_customer("cus_2")
    for minute, value in ((-1, "1"), (0, "10"), (59, "1000"), (60, "10000")):
        send(account, value=value, at=NOON - HOUR + timedelta(minutes=minute))
    send(account, value="5", at=NOON - HOUR, customer="cus_2")
    assert account.counted("cus_1", NOON - HOUR, NOON) == 10 + 1000
    assert account.counted(None, NOON - HOUR, NOON) == 10 + 1000 + 5
    assert account.counted("cus_none", NOON - HOUR, NOON) == 0


def test_one_summary_without_grouping_even_of_nothing(account: Account) -> None:
    assert summary(account) == 0
    send(account, at=NOON - HOUR)
    send(account, at=NOON)
    assert summary(account) == 6
    [half] = account.summaries(account.meter.id, "cus_1", NOON - HOUR, NOON)
    assert half.to_json() == {
        "id": half.id,
        "object": "billing.meter_event_summary",
        "aggregated_value": 3.0,
        "start_time": int((NOON - HOUR).timestamp()),
        "end_time": int(NOON.timestamp()),
        "livemode": False,
        "meter": account.meter.id,
    }


def test_a_summary_is_of_one_meter_and_one_customer(account: Account) -> None:
    other = account.add_meter("words")
    account.add_customer("cus_2")
    send(account)
    send(account, value="50", event_name="words")
    send(account, value="700", customer="cus_2")
    assert summary(account) == 3
    assert [found.value for found in account.summaries(other.id, "cus_1", NOON - HOUR, NOON + HOUR)] == [50]


def test_totals_lag(account: Account, clock: ManualClock) -> None:
    account.summary_lag = timedelta(minutes=30)
    send(account)
    clock.advance(minutes=30, microseconds=-1)
    assert summary(account) == 0
    clock.advance(microseconds=1)
    assert summary(account) == 3


@pytest.mark.parametrize(("grouping", "size"), [("hour", HOUR), ("day", timedelta(days=1))])
def test_groups_are_newest_first_and_leave_out_empty_ones(account: Account, grouping: str, size: timedelta) -> None:
    start = datetime(2026, 5, 10, tzinfo=UTC)
    send(account, value="1", at=start)
    send(account, value="2", at=start + size - timedelta(seconds=1))
    send(account, value="4", at=start + 2 * size)
    found = account.summaries(account.meter.id, "cus_1", start, start + 4 * size, grouping)
    assert [(each.start, each.end, each.value) for each in found] == [
        (start + 2 * size, start + 3 * size, 4),
        (start, start + size, 3),
    ]
    account.omit_empty_buckets = False
    found = account.summaries(account.meter.id, "cus_1", start, start + 4 * size, grouping)
    assert [each.value for each in found] == [0, 4, 0, 3]


@pytest.mark.parametrize(
    ("grouping", "late"), [(None, timedelta(seconds=1)), ("hour", timedelta(minutes=1)), ("day", HOUR)]
)
def test_times_must_fit_the_grouping(account: Account, grouping: str | None, late: timedelta) -> None:
    start, end = datetime(2026, 5, 10, tzinfo=UTC), datetime(2026, 5, 12, tzinfo=UTC)
    account.summaries(account.meter.id, "cus_1", start, end, grouping)
    for span, param in (((start + late, end), "start_time"), ((start, end + late), "end_time")):
        with pytest.raises(Refused, match="aligned") as caught:
            account.summaries(account.meter.id, "cus_1", *span, grouping)
        assert (caught.value.status, caught.value.param) == (400, param)


def test_other_wrong_questions_for_totals_are_refused(account: Account) -> None:
    with pytest.raises(Refused, match="before end_time"):
        account.summaries(account.meter.id, "cus_1", NOON, NOON)
    with pytest.raises(Refused, match="value_grouping_window"):
        account.summaries(account.meter.id, "cus_1", NOON, NOON + HOUR, "week")
    with pytest.raises(Refused) as caught:
        account.summaries("mtr_none", "cus_1", NOON, NOON + HOUR)
    assert (caught.value.status, caught.value.code) == (404, "resource_missing")
    with pytest.raises(Refused) as caught:
        account.summaries(account.meter.id, "cus_none", NOON, NOON + HOUR)
    assert (caught.value.status, caught.value.code) == (400, "resource_missing")


# Subscriptions.


def test_subscriptions_are_listed_by_status_newest_first(account: Account) -> None:
    old = account.add_subscription("cus_1", start=NOON - timedelta(days=90), status="past_due")
    new = account.add_subscription("cus_1", start=NOON - timedelta(days=30))
    ended = account.add_subscription("cus_1", start=NOON - timedelta(days=60), ended_at=NOON)
    expired = account.add_subscription("cus_1", start=NOON - timedelta(days=10), status="incomplete_expired")
    account.add_subscription(account.add_customer(), start=NOON)

    def listed(status: str | None) -> list[str]:
        return [subscription.id for subscription in account.subscriptions("cus_1", status)]

    assert listed(None) == [expired, new, old]
    assert listed("all") == [expired, new, ended, old]
    assert listed("canceled") == [ended]
    assert listed("ended") == [expired, ended]
    assert listed("past_due") == [old]
    assert len(account.subscriptions(status="all")) == 5


def test_a_subscription_ends_when_its_time_has_come(account: Account, clock: ManualClock) -> None:
    id_ = account.add_subscription("cus_1", start=NOON - timedelta(days=20))
    account.end_subscription(id_, NOON + HOUR)
    planned = account.find_subscription(id_).to_json(clock.now())
    assert (planned["status"], planned["ended_at"], planned["canceled_at"]) == ("active", None, None)
    assert planned["cancel_at"] == int((NOON + HOUR).timestamp())
    clock.advance(hours=1)
    ended = account.find_subscription(id_).to_json(clock.now())
    assert (ended["status"], ended["cancel_at"]) == ("canceled", None)
    assert ended["ended_at"] == ended["canceled_at"] == int((NOON + HOUR).timestamp())


def test_deleting_a_customer_ends_its_subscriptions_which_can_still_be_listed(account: Account) -> None:
    id_ = account.add_subscription("cus_1", start=NOON - timedelta(days=20))
    account.delete_customer("cus_1")
    assert account.subscriptions("cus_1") == []
    assert [subscription.id for subscription in account.subscriptions("cus_1", "all")] == [id_]
    assert account.find_subscription(id_).ended_at == NOON
    with pytest.raises(Refused) as caught:
        account.subscriptions("cus_none", "all")
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "resource_missing", "customer")
    with pytest.raises(KeyError):
        account.delete_customer("cus_none")


def test_the_last_of_a_subscriptions_prices_is_the_metered_one(account: Account) -> None:
    def meters(id_: str) -> list[str | None]:
        items = account.find_subscription(id_).to_json(NOON)["items"]["data"]
        return [item["price"]["recurring"]["meter"] for item in items]

    assert meters(account.add_subscription("cus_1", start=NOON, items=3)) == [None, None, account.meter.id]
    assert meters(account.add_subscription("cus_1", start=NOON, meter_id=None)) == [None]
    assert meters(account.add_subscription("cus_1", start=NOON, meter_id="mtr_other")) == ["mtr_other"]


@pytest.mark.parametrize(
    ("moment", "start", "end"),
    [
        (datetime(2026, 1, 31, tzinfo=UTC), (1, 31), (2, 28)),
        (datetime(2026, 2, 27, tzinfo=UTC), (1, 31), (2, 28)),
        (datetime(2026, 2, 28, tzinfo=UTC), (2, 28), (3, 31)),
        (datetime(2026, 4, 30, tzinfo=UTC), (4, 30), (5, 31)),
        (datetime(2026, 12, 31, tzinfo=UTC), (12, 31), (1, 31)),
    ],
)
def test_billing_periods_are_months_from_the_anchor(
    moment: datetime, start: tuple[int, int], end: tuple[int, int]
) -> None:
    period = billing_period(datetime(2026, 1, 31, tzinfo=UTC), moment)
    assert [(day.month, day.day) for day in period] == [start, end]


# Limits and keys.


def test_rates_are_limited_in_any_one_second_each_on_its_own(account: Account, clock: ManualClock) -> None:
    account.events_per_second, account.calls_per_second, account.retry_after = 2, 1, 7
    account.admit(event=True)
    clock.advance(milliseconds=500)
    account.admit(event=True)
    account.admit(event=False)
    for event in (True, False):
        with pytest.raises(Refused) as caught:
            account.admit(event=event)
        assert (caught.value.status, caught.value.code, caught.value.retry_after) == (429, "rate_limit", 7)
    clock.advance(milliseconds=500)
    account.admit(event=True)
    with pytest.raises(Refused):
        account.admit(event=True)


def test_there_is_no_limit_unless_one_is_set(account: Account) -> None:
    for _ in range(5000):
        account.admit(event=True)
        account.admit(event=False)


def test_one_call_at_a_time_for_each_customer_and_meter(account: Account) -> None:
    account.begin_event("pages", "cus_1")
    account.begin_event("pages", "cus_2")
    account.begin_event("words", "cus_1")
    with pytest.raises(Refused) as caught:
        account.begin_event("pages", "cus_1")
    assert (caught.value.status, caught.value.code) == (429, "too_many_concurrent_requests")
    account.end_event("pages", "cus_1")
    account.begin_event("pages", "cus_1")
    account.one_call_a_customer = False
    account.begin_event("pages", "cus_1")


def test_a_key_replays_its_answer_for_24_hours(account: Account, clock: ManualClock) -> None:
    assert account.begin_key("k", 1) is None
    account.end_key("k", SAVED)
    clock.advance(hours=24, microseconds=-1)
    assert account.begin_key("k", 1) is SAVED
    clock.advance(microseconds=1)
    assert account.begin_key("k", 1) is None


def test_a_key_is_refused_with_other_parameters_and_while_it_is_in_flight(account: Account) -> None:
    account.begin_key("k", 1)
    with pytest.raises(Refused) as caught:
        account.begin_key("k", 1)
    assert (caught.value.status, caught.value.code) == (409, "idempotency_key_in_use")
    account.end_key("k", SAVED)
    with pytest.raises(Refused) as caught:
        account.begin_key("k", 2)
    assert (caught.value.status, caught.value.type) == (400, "idempotency_error")


def test_a_key_whose_request_was_not_executed_is_free_again(account: Account) -> None:
    account.begin_key("k", 1)
    account.end_key("k", None)
    assert account.begin_key("k", 2) is None


# The rest.


def test_a_live_account_says_so_everywhere(clock: ManualClock) -> None:
    account = Account(clock, livemode=True)
    assert account.secret_key.startswith("sk_live_")
    assert Account(clock).secret_key.startswith("sk_test_")
    assert account.meter.to_json()["livemode"] is True
    id_ = account.add_subscription(account.add_customer(), start=NOON)
    assert account.find_subscription(id_).to_json(NOON)["livemode"] is True
    send(account, customer="cus_none")
    assert account.thin_events()[0].to_json()["livemode"] is True


def test_events_are_counted_by_the_second_of_their_receipt(account: Account, clock: ManualClock) -> None:
    send(account, at=NOON - HOUR)
    send(account)
    clock.advance(seconds=2)
    send(account)
    second = int(NOON.timestamp())
    assert account.received_per_second() == {second: 2, second + 2: 1}
