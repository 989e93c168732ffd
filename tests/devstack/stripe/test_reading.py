"""What the real SDK reads from the Stripe stand-in."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
import stripe
from stripe import StripeClient

from devstack.stripe_account import Account
from devstack.stripe_objects import ERROR_REPORT, NO_METER_FOUND
from devstack.stripe_server import StripeServer
from shared.clock import format_rfc3339
from tests.devstack.stripe.calls import counted, plainly, send
from tests.support.clock import NOON, ManualClock

HOUR = timedelta(hours=1)
AT_NOON = int(NOON.timestamp())


def test_a_meter_event_is_accepted_and_counts(account: Account, client: StripeClient) -> None:
    event = client.v1.billing.meter_events.create(
        {
            "event_name": "pages",
            "identifier": "a",
            "payload": {"stripe_customer_id": "cus_1", "value": "3"},
            "timestamp": AT_NOON - 60,
        }
    )
    assert (event.object, event.identifier, event.event_name) == ("billing.meter_event", "a", "pages")
    assert (event.created, event.timestamp, event.livemode) == (AT_NOON, AT_NOON - 60, False)
    assert event.payload["value"] == "3"
    [received] = account.events
    assert (received.customer, received.value, received.timestamp) == ("cus_1", 3, NOON - timedelta(minutes=1))


def test_a_duplicate_is_refused_in_stripes_words_until_it_is_forgotten(
    account: Account, client: StripeClient, clock: ManualClock
) -> None:
    send(client, "a")
    with pytest.raises(stripe.InvalidRequestError) as caught:
        send(client, "a")
    assert caught.value.http_status == 400
    assert caught.value.user_message == "An event already exists with identifier a."
    assert caught.value.code is None
    assert caught.value.headers is not None
    assert caught.value.headers["Stripe-Should-Retry"] == "false"
    assert caught.value.json_body == {
        "error": {"type": "invalid_request_error", "message": "An event already exists with identifier a."}
    }
    clock.advance(hours=24)
    send(client, "a")
    assert counted(account) == 6


def test_an_event_that_is_too_old_is_refused_in_stripes_words(client: StripeClient) -> None:
    with pytest.raises(stripe.InvalidRequestError, match="cannot be more than 35 days in past") as caught:
        client.v1.billing.meter_events.create(
            {
                "event_name": "pages",
                "payload": {"stripe_customer_id": "cus_1", "value": "3"},
                "timestamp": AT_NOON - 35 * 86400 - 1,
            }
        )
    assert (caught.value.http_status, caught.value.code) == (400, None)


@pytest.mark.parametrize(
    ("form", "param", "code"),
    [
        ({"payload[stripe_customer_id]": "cus_1", "payload[value]": "3"}, "event_name", "parameter_missing"),
        ({"event_name": "pages"}, "payload", "parameter_missing"),
        ({"event_name": "pages", "payload[value]": "3"}, "payload", None),
        ({"event_name": "pages", "payload[stripe_customer_id]": "cus_1", "payload[value]": "x"}, "payload", None),
        ({"event_name": "x" * 101, "payload[value]": "3"}, "event_name", None),
        ({"event_name": "pages", "payload[value]": "3", "timestamp": "now"}, "timestamp", "parameter_invalid_integer"),
        ({"event_name": "pages", "payload[value]": "3", "idempotency": "a"}, "idempotency", "parameter_unknown"),
    ],
)
def test_a_malformed_event_is_refused_and_its_key_stays_free(
    account: Account, server: StripeServer, client: StripeClient, form: Mapping[str, str], param: str, code: str | None
) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Idempotency-Key": "k"}
    status, body, _ = plainly(server, "POST", "/v1/billing/meter_events", headers, urlencode(form))
    assert (status, body["error"]["type"]) == (400, "invalid_request_error")
    assert (body["error"]["param"], body["error"].get("code")) == (param, code)
    assert account.events == []
    send(client, key="k")


def test_meters_can_be_read(account: Account, client: StripeClient) -> None:
    meter = client.v1.billing.meters.retrieve(account.meter.id)
    assert (meter.id, meter.event_name, meter.status, meter.livemode) == (account.meter.id, "pages", "active", False)
    assert (meter.default_aggregation.formula, meter.event_time_window) == ("sum", None)
    assert meter.customer_mapping.event_payload_key == "stripe_customer_id"
    assert meter.value_settings.event_payload_key == "value"
    other = account.add_meter("words")
    other.status = "inactive"
    assert [each.id for each in client.v1.billing.meters.list().data] == [other.id, account.meter.id]
    assert [each.id for each in client.v1.billing.meters.list({"status": "active"}).data] == [account.meter.id]
    with pytest.raises(stripe.InvalidRequestError, match="No such billing meter: 'mtr_none'") as caught:
        client.v1.billing.meters.retrieve("mtr_none")
    assert (caught.value.http_status, caught.value.code) == (404, "resource_missing")


def test_totals_can_be_read_page_by_page(account: Account, client: StripeClient) -> None:
    start = NOON - timedelta(days=20)
    for hour in range(250):
        payload = {"stripe_customer_id": "cus_1", "value": str(hour)}
        account.receive("pages", payload, None, int((start + hour * HOUR).timestamp()))
    first, end = int(start.timestamp()), int((start + 250 * HOUR).timestamp())
    pages = client.v1.billing.meters.event_summaries.list(
        account.meter.id,
        {"customer": "cus_1", "start_time": first, "end_time": end, "value_grouping_window": "hour", "limit": 100},
    )
    assert (len(pages.data), pages.has_more) == (100, True)
    assert [found.aggregated_value for found in pages.auto_paging_iter()] == list(range(249, -1, -1))
    whole = client.v1.billing.meters.event_summaries.list(
        account.meter.id, {"customer": "cus_1", "start_time": first, "end_time": end}
    )
    assert [(each.start_time, each.end_time, each.aggregated_value) for each in whole.data] == [
        (first, end, sum(range(250)))
    ]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"limit": 101}, "limit"),
        ({"limit": 0}, "limit"),
        ({"start_time": 1}, "start_time"),
        ({"customer": "x"}, "customer"),
        ({"starting_after": "x"}, "starting_after"),
    ],
)
def test_wrong_questions_for_totals_are_refused(
    account: Account, client: StripeClient, change: Mapping[str, Any], param: str
) -> None:
    params: Any = {"customer": "cus_1", "start_time": AT_NOON - 3600, "end_time": AT_NOON, **change}
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.v1.billing.meters.event_summaries.list(account.meter.id, params)
    assert (caught.value.http_status, caught.value.param) == (400, param)


def test_a_list_has_10_rows_unless_told_and_can_be_read_backwards(account: Account, client: StripeClient) -> None:
    ids = [account.add_subscription("cus_1", start=NOON + timedelta(days=day)) for day in range(12)][::-1]
    assert [each.id for each in client.v1.subscriptions.list().data] == ids[:10]
    before = client.v1.subscriptions.list({"ending_before": ids[9], "limit": 4})
    assert ([each.id for each in before.data], before.has_more) == (ids[5:9], True)
    assert [each.id for each in before.auto_paging_iter()] == ids[8::-1]


def test_subscriptions_can_be_read(account: Account, client: StripeClient) -> None:
    start = NOON - timedelta(days=40)
    id_ = account.add_subscription("cus_1", start=start, items=2)
    gone = account.add_subscription("cus_1", start=start - HOUR, ended_at=NOON - HOUR)
    [found] = client.v1.subscriptions.list({"customer": "cus_1"}).data
    assert (found.id, found.customer, found.status) == (id_, "cus_1", "active")
    assert (found.start_date, found.created, found.ended_at) == (int(start.timestamp()), int(start.timestamp()), None)
    items = found["items"].data
    assert [item.price.recurring.meter for item in items] == [None, account.meter.id]
    assert [item.price.recurring.usage_type for item in items] == ["licensed", "metered"]
    assert items[0].current_period_start <= AT_NOON < items[0].current_period_end
    every = client.v1.subscriptions.list({"customer": "cus_1", "status": "all", "limit": 1}).auto_paging_iter()
    assert [each.id for each in every] == [id_, gone]
    ended = client.v1.subscriptions.retrieve(gone)
    assert (ended.status, ended.ended_at, ended.canceled_at) == ("canceled", AT_NOON - 3600, AT_NOON - 3600)
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.v1.subscriptions.list({"customer": "cus_none", "status": "all"})
    assert (caught.value.http_status, caught.value.code) == (400, "resource_missing")
    with pytest.raises(stripe.InvalidRequestError, match="Invalid status"):
        client.v1.subscriptions.list({"status": "over"})
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.v1.subscriptions.retrieve("sub_none")
    assert caught.value.http_status == 404


def test_customers_can_be_read_also_when_they_are_deleted(account: Account, client: StripeClient) -> None:
    customer = client.v1.customers.retrieve("cus_1")
    assert (customer.id, customer.object, getattr(customer, "deleted", None)) == ("cus_1", "customer", None)
    account.delete_customer("cus_1")
    assert client.v1.customers.retrieve("cus_1").deleted is True
    with pytest.raises(stripe.InvalidRequestError, match="No such customer: 'cus_none'") as caught:
        client.v1.customers.retrieve("cus_none")
    assert (caught.value.http_status, caught.value.code) == (404, "resource_missing")


def test_refusals_can_be_read_as_thin_events(account: Account, client: StripeClient) -> None:
    send(client, "a")
    send(client, "b", customer="cus_none")
    account.refuse_later("a", message="Too odd.")
    account.receive("words", {}, "c", None)
    none_found, later, unknown = client.v2.core.events.list().data
    assert isinstance(none_found, stripe.events.V1BillingMeterNoMeterFoundEvent)
    assert none_found.data.reason.error_types[0].code == "no_meter"
    assert isinstance(later, stripe.events.V1BillingMeterErrorReportTriggeredEvent)
    assert (later.related_object.id, later.related_object.type) == (account.meter.id, "billing.meter")
    assert later.data.reason.error_count == 1
    [error] = later.data.reason.error_types
    assert (error.code, error.error_count) == ("meter_event_invalid_value", 1)
    assert error.sample_errors[0].error_message == "Too odd."
    assert error.sample_errors[0].request.identifier == "a"
    assert later.fetch_related_object().event_name == "pages"
    again = client.v2.core.events.retrieve(unknown.id)
    assert isinstance(again, stripe.events.V1BillingMeterErrorReportTriggeredEvent)
    assert again.data.reason.error_types[0].code == "meter_event_customer_not_found"
    assert (again.created, again.livemode) == ("2026-05-15T12:00:00.000Z", False)
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.v2.core.events.retrieve("evt_none")
    assert (caught.value.http_status, caught.value.code) == (404, "not_found")


def test_thin_events_are_listed_page_by_page(
    account: Account, server: StripeServer, client: StripeClient, clock: ManualClock
) -> None:
    for number in range(23):
        send(client, str(number))
        account.refuse_later(str(number))
        account.receive("words", {}, None, None)
        clock.advance(seconds=1)
    newest = [f"2026-05-15T12:00:{second:02}.000Z" for second in range(22, -1, -1)]
    pages = client.v2.core.events.list({"limit": 5, "types": [ERROR_REPORT], "object_id": account.meter.id})
    assert [event.created for event in pages.data] == newest[:5]
    server.requests.clear()
    assert [event.created for event in pages.auto_paging_iter()] == newest
    assert len(server.requests) == 4
    assert len(client.v2.core.events.list().data) == 10


def test_thin_events_are_filtered(account: Account, client: StripeClient, clock: ManualClock) -> None:
    for number in range(3):
        send(client, str(number))
        account.refuse_later(str(number))
        clock.advance(seconds=1)
    account.receive("words", {}, None, None)

    def seconds(params: Any) -> list[int]:
        return [int(event.created[17:19]) for event in client.v2.core.events.list(params).data]

    one = format_rfc3339(NOON + timedelta(seconds=1))
    assert seconds({"created": {"gt": one}}) == [3, 2]
    assert seconds({"created": {"gte": one}}) == [3, 2, 1]
    assert seconds({"created": {"lt": one}}) == [0]
    assert seconds({"created": {"lte": one}}) == [1, 0]
    assert seconds({"created": {"gt": one, "lt": format_rfc3339(NOON + timedelta(seconds=3))}}) == [2]
    assert seconds({"types": [NO_METER_FOUND]}) == [3]
    assert seconds({"types": [NO_METER_FOUND, ERROR_REPORT]}) == [3, 2, 1, 0]
    assert seconds({"object_id": account.meter.id}) == [2, 1, 0]
    assert seconds({"object_id": "mtr_none"}) == []
    for wrong in ({"created": {"gt": "noon"}}, {"types": ["a"] * 21}, {"limit": 101}):
        with pytest.raises(stripe.InvalidRequestError):
            seconds(wrong)


def test_a_list_of_thin_events_can_be_without_their_data(account: Account, client: StripeClient) -> None:
    account.list_data = False
    send(client, customer="cus_none")
    [event] = client.v2.core.events.list().data
    assert not hasattr(event, "data")
    assert client.v2.core.events.retrieve(event.id)["data"]["reason"]["error_count"] == 1
