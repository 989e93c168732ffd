"""The stand-in's Stripe account does what Stripe's documentation says Stripe does."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest

from devstack.stripe_account import Account
from devstack.stripe_faults import METER_EVENTS, Faults
from devstack.stripe_objects import ERROR_REPORT, NO_METER_FOUND, Answer, ReceivedEvent, Refused, billing_period
from tests.support.clock import NOON, ManualClock

HOUR = timedelta(hours=1)
ALWAYS = (NOON - timedelta(days=400), NOON + timedelta(days=400))
SAVED = Answer(200, b"{}", {})


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
def account(clock: ManualClock) -> Account:
    made = Account(clock)
    made.add_customer("cus_1")
    return made


def send(
    account: Account,
    identifier: str | None = None,
    value: str = "3",
    at: datetime | None = None,
    customer: str = "cus_1",
    event_name: str = "pages",
) -> ReceivedEvent:
    payload = {"stripe_customer_id": customer, "value": value}
    return account.receive(event_name, payload, identifier, None if at is None else int(at.timestamp()))


def counted(account: Account, customer: str = "cus_1") -> int:
    return account.counted(customer, *ALWAYS)


def refused(account: Account, payload: Mapping[str, str], identifier: str | None = None) -> Refused:
    with pytest.raises(Refused) as caught:
        account.receive("pages", payload, identifier, None)
    assert (caught.value.status, caught.value.type, caught.value.should_retry) == (400, "invalid_request_error", None)
    assert account.events == []
    return caught.value


# Identifiers.


def test_an_identifier_is_refused_for_24_hours_in_stripes_words(account: Account, clock: ManualClock) -> None:
    send(account, "a")
    clock.advance(hours=24, microseconds=-1)
    with pytest.raises(Refused) as caught:
        send(account, "a")
    error = caught.value
    assert (error.status, error.type, error.code) == (400, "invalid_request_error", None)
    assert error.message == "An event already exists with identifier a."
    assert error.should_retry is False
    assert counted(account) == 3


def test_an_identifier_is_forgotten_after_24_hours_and_the_event_counts_twice(
    account: Account, clock: ManualClock
) -> None:
    send(account, "a", at=NOON)
    clock.advance(hours=24)
    send(account, "a", at=NOON)
    assert counted(account) == 6
    with pytest.raises(Refused):
        send(account, "a")


def test_an_identifier_stays_taken_when_its_event_was_refused_later(account: Account) -> None:
    send(account, "a")
    account.refuse_later("a")
    with pytest.raises(Refused, match="already exists"):
        send(account, "a")


def test_a_refused_event_does_not_take_its_identifier(account: Account) -> None:
    refused(account, {"stripe_customer_id": "cus_1", "value": "many"}, "a")
    send(account, "a")
    assert counted(account) == 3


def test_an_identifier_is_made_where_none_is_given(account: Account) -> None:
    assert send(account).identifier != send(account).identifier
    assert counted(account) == 6


def test_an_identifier_has_1_to_100_characters(account: Account) -> None:
    payload = {"stripe_customer_id": "cus_1", "value": "3"}
    assert refused(account, payload, "x" * 101).param == "identifier"
    assert refused(account, payload, "").param == "identifier"
    assert send(account, "x" * 100).identifier == "x" * 100


# Timestamps and values.


def test_a_timestamp_is_at_most_35_days_back(account: Account) -> None:
    send(account, at=NOON - timedelta(days=35))
    with pytest.raises(Refused) as caught:
        send(account, at=NOON - timedelta(days=35, seconds=1))
    assert caught.value.message == "The event timestamp cannot be more than 35 days in past"
    assert (caught.value.status, caught.value.code) == (400, None)


def test_a_timestamp_is_at_most_5_minutes_ahead(account: Account) -> None:
    send(account, at=NOON + timedelta(minutes=5))
    with pytest.raises(Refused, match="5 minutes"):
        send(account, at=NOON + timedelta(minutes=5, seconds=1))


def test_a_timestamp_beyond_the_calendar_is_refused(account: Account) -> None:
    with pytest.raises(Refused, match="Invalid timestamp"):
        account.receive("pages", {"stripe_customer_id": "cus_1", "value": "3"}, None, 10**17)


def test_an_event_without_a_timestamp_is_of_now(account: Account, clock: ManualClock) -> None:
    clock.set(NOON + timedelta(seconds=1, microseconds=5))
    event = send(account)
    assert (event.timestamp, event.received_at) == (NOON + timedelta(seconds=1), clock.now())


@pytest.mark.parametrize("payload", [{"value": "3"}, {"stripe_customer_id": "", "value": "3"}])
def test_a_payload_without_a_customer_is_refused(account: Account, payload: Mapping[str, str]) -> None:
    assert "'stripe_customer_id'" in refused(account, payload).message


@pytest.mark.parametrize("value", [None, "", "x", "1e3", "0x1", " 1", "1.", "٣", "1_0"])
def test_a_value_that_is_no_number_is_refused(account: Account, value: str | None) -> None:
    refused(account, {"stripe_customer_id": "cus_1"} | ({} if value is None else {"value": value}))


@pytest.mark.parametrize("value", ["1234567890123456", "123456789012345.6", "-1234567890123456"])
def test_a_value_of_over_15_significant_digits_is_refused(account: Account, value: str) -> None:
    assert "15 significant digits" in refused(account, {"stripe_customer_id": "cus_1", "value": value}).message


@pytest.mark.parametrize(
    ("value", "read"), [("123456789012345", 123456789012345), ("000000000000000012", 12), ("2.0", 2), ("-4", -4)]
)
def test_a_number_of_up_to_15_significant_digits_is_accepted(account: Account, value: str, read: int) -> None:
    assert send(account, value=value).value == read
    assert counted(account) == read


def test_the_meter_says_which_keys_the_payload_has(account: Account) -> None:
    account.meter.customer_key, account.meter.value_key = "who", "pages"
    assert "'who'" in refused(account, {"stripe_customer_id": "cus_1", "pages": "3"}).message
    event = account.receive("pages", {"who": "cus_1", "pages": "7"}, None, None)
    assert (event.customer, event.value) == ("cus_1", 7)


# What is refused later.


def test_an_event_for_an_unknown_customer_is_accepted_and_refused_later(account: Account) -> None:
    event = send(account, "a", customer="cus_none")
    assert event.refused_code == "meter_event_customer_not_found"
    assert counted(account, "cus_none") == 0
    [report] = account.thin_events()
    assert (report.type, report.meter_id) == (ERROR_REPORT, account.meter.id)
    assert list(report.errors) == ["meter_event_customer_not_found"]


def test_a_deleted_customer_counts_as_unknown_and_an_added_one_does_not(account: Account) -> None:
    account.delete_customer("cus_1")
    assert send(account).refused_code == "meter_event_customer_not_found"
    account.add_customer("cus_1")
    assert send(account).refused_code is None


def test_any_customer_is_taken_when_the_account_says_so(account: Account) -> None:
    account.any_customer = True
    assert send(account, customer="cus_none").refused_code is None
    account.delete_customer("cus_1")
    assert send(account).refused_code == "meter_event_customer_not_found"


def test_an_event_that_no_active_meter_is_for_is_accepted_and_refused_later(account: Account) -> None:
    assert send(account, "a", event_name="words").refused_code == "no_meter"
    account.meter.status = "inactive"
    assert send(account, "b").refused_code == "archived_meter"
    [report] = account.thin_events()
    assert (report.type, report.meter_id) == (NO_METER_FOUND, None)
    assert list(report.errors) == ["no_meter", "archived_meter"]
    assert counted(account) == 0
    account.add_meter("words")
    assert send(account, event_name="words").refused_code is None


def test_refusing_later_takes_events_out_of_the_totals_in_one_report(account: Account) -> None:
    for name in ("a", "b", "c"):
        send(account, name)
    report = account.refuse_later(["a", "b"], message="Too odd.")
    assert counted(account) == 3
    assert summary(account) == 3
    assert account.thin_events() == [report]
    data = report.to_json()["data"]
    assert data["developer_message_summary"] == "There are 2 invalid events"
    assert data["reason"] == {
        "error_count": 2,
        "error_types": [
            {
                "code": "meter_event_invalid_value",
                "error_count": 2,
                "sample_errors": [
                    {"error_message": "Too odd.", "request": {"identifier": name}} for name in ("a", "b")
                ],
            }
        ],
    }
    with pytest.raises(KeyError):
        account.refuse_later("unknown")


def test_a_report_shows_only_samples_and_counts_all(account: Account) -> None:
    account.sample_limit = 2
    for number in range(5):
        send(account, str(number), customer="cus_none")
    [report] = account.thin_events()
    [error] = report.to_json()["data"]["reason"]["error_types"]
    assert error["error_count"] == 5
    assert [sample["request"]["identifier"] for sample in error["sample_errors"]] == ["0", "1"]


def test_a_report_takes_refusals_in_for_10_seconds_and_never_after_it_was_read(
    account: Account, clock: ManualClock
) -> None:
    send(account, "a", customer="cus_none")
    clock.advance(seconds=9)
    send(account, "b", customer="cus_none")
    clock.advance(seconds=1)
    send(account, "c", customer="cus_none")
    assert [report.to_json()["data"]["reason"]["error_count"] for report in account.thin_events()] == [1, 2]
    send(account, "d", customer="cus_none")
    assert len(account.thin_events()) == 3


def test_thin_events_are_kept_for_30_days(account: Account, clock: ManualClock) -> None:
    send(account, customer="cus_none")
    clock.advance(days=30)
    assert len(account.thin_events()) == 1
    clock.advance(seconds=1)
    assert account.thin_events() == []


# Totals.


def summary(account: Account) -> int:
    [only] = account.summaries(account.meter.id, "cus_1", NOON - HOUR, NOON + HOUR)
    return only.value


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


def kinds(faults: Faults, count: int, **request: str | None) -> list[str | None]:
    asked = {"method": "POST", "path": METER_EVENTS, "identifier": None} | request
    taken = [faults.take(str(asked["method"]), str(asked["path"]), asked["identifier"]) for _ in range(count)]
    return [None if fault is None else fault.kind for fault in taken]


def test_faults_come_in_order_and_as_often_as_told() -> None:
    faults = Faults()
    first = faults.add("429", times=2)
    faults.add("cut_after")
    assert kinds(faults, 4) == ["429", "429", "cut_after", None]
    assert first.times == 0
    faults.add("409", times=None)
    assert kinds(faults, 9) == ["409"] * 9
    faults.clear()
    assert kinds(faults, 1) == [None]


def test_a_fault_is_for_the_requests_that_it_names() -> None:
    faults = Faults()
    faults.add("cut_before", identifier="a")
    faults.add("500_before", path="/v1/billing/meters/*", method="GET")
    assert kinds(faults, 1, identifier="b") == [None]
    assert kinds(faults, 1, identifier="a") == ["cut_before"]
    assert kinds(faults, 1, method="GET") == [None]
    assert kinds(faults, 1, method="GET", path="/v1/billing/meters/mtr_1") == ["500_before"]


def test_a_fault_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="no fault is called 'flood'"):
        Faults().add("flood")
    with pytest.raises(ValueError, match="no option seconds"):
        Faults().add("hang", seconds=3)
    with pytest.raises(ValueError, match="no fault is called 'flood'"):
        Faults().random(1, {"flood": 0.1})
    with pytest.raises(ValueError, match="probabilities"):
        Faults().random(1, {"429": 0.6, "409": 0.6})


def test_random_faults_are_the_same_for_the_same_seed_and_come_after_planned_ones() -> None:
    def drawn(seed: int) -> list[str | None]:
        faults = Faults()
        faults.random(seed, {"429": 0.25, "cut_after": 0.25})
        faults.add("hang")
        assert kinds(faults, 5, method="GET") == [None] * 5
        return kinds(faults, 1001)

    first = drawn(1)
    assert first[0] == "hang"
    assert first == drawn(1) != drawn(2)
    assert {kind: first[1:].count(kind) // 100 for kind in ("429", "cut_after", None)} == {
        "429": 2,
        "cut_after": 2,
        None: 5,
    }
