"""The stand-in's Stripe account takes and refuses events as Stripe's documentation says that Stripe does."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

import pytest

from devstack.stripe_account import Account
from devstack.stripe_objects import ERROR_REPORT, NO_METER_FOUND, Refused
from tests.devstack.stripe.events import counted, send, summary
from tests.support.clock import NOON, ManualClock


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
