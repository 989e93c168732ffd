"""The Stripe adapter: Stripe's own SDK, with a key of its own client and without retries.

Retries stand in one place, with the caller, who alone knows what an attempt without an answer means. The SDK's default
transport costs a millisecond of CPU a call, twice as much as urllib3 alone; so it is given urllib3, which it is made
for (`http_client`).
"""

import math
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.abc import MetaPathFinder
from itertools import islice
from typing import Any, TypeVar

import urllib3

from shared.clock import format_rfc3339, parse_rfc3339
from shared.logline import Redactor
from shared.stripe_calls import Answer, CallFailed, Grouping, Meter, MeterEvent, Refusal, RefusalReport, Subscription
from shared.stripe_settings import StripeSettings


class _Hidden(MetaPathFinder):
    """Lets some modules be found by nobody, while the `with` block lasts, in the thread that is in it."""

    def __init__(self, *modules: str) -> None:
        self._modules = modules
        self._thread = threading.get_ident()

    def __enter__(self) -> None:
        sys.meta_path.insert(0, self)

    def __exit__(self, *_: object) -> None:
        sys.meta_path.remove(self)

    def find_spec(self, name: str, *_: object) -> None:
        """Say that there is none; anything else is for the other finders. Raises ModuleNotFoundError."""
        if name in self._modules and threading.get_ident() == self._thread:
            raise ModuleNotFoundError(f"{name} is not used here", name=name)


# While it is imported, the SDK loads whichever HTTP libraries there are, for transports that are not used here. That is
# a third of a function's own part of a cold start.
with _Hidden("requests", "aiohttp", "httpx", "pycurl"):
    import stripe
    from stripe import StripeClient

_CONNECT_SECONDS, _READ_SECONDS = 5, 30
_LARGEST_PAGE = 100
# A page of the largest subscriptions has about 6 MB; a function has 512 MiB.
_LARGEST_ANSWER = 16 * 1024 * 1024
_LONGEST_MESSAGE = 500
_LONGEST_LIST = 100_000
_REFUSED_LATER = "v1.billing.meter.error_report_triggered"
_NO_METER = "v1.billing.meter.no_meter_found"

# Telemetry would tell Stripe about this machine, at the cost of a tenth of each call.
stripe.enable_telemetry = False

_UNKEPT = re.compile("[\x00\ud800-\udfff]")

T = TypeVar("T")


class _Transport(stripe.HTTPClient):
    """The SDK's transport on urllib3. Follows no redirect and repeats nothing."""

    name = "urllib3"

    def __init__(self, connections: int) -> None:
        super().__init__()
        self._pool = urllib3.PoolManager(
            maxsize=connections,
            retries=False,
            timeout=urllib3.Timeout(connect=_CONNECT_SECONDS, read=_READ_SECONDS),
            ca_certs=stripe.ca_bundle_path,
        )

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        post_data: Any = None,
        *,
        _usage: list[str] | None = None,
    ) -> tuple[Any, int, Mapping[str, str]]:
        """Send one request; give body, status and headers. Raises the SDK's APIConnectionError.

        A body is read, and decompressed, to a limit. What is longer is not Stripe's, and the piece of it no JSON.
        """
        try:
            response = self._pool.request(
                method.upper(), url, headers=dict(headers or {}), body=post_data, preload_content=False
            )
            try:
                body = response.read(_LARGEST_ANSWER)
            except BaseException:
                response.close()
                raise
            if len(body) == _LARGEST_ANSWER:
                response.close()
            response.release_conn()
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            # The name alone: the text of a connection's error may quote the address, and nobody needs more.
            failure = f"The connection failed ({type(error).__name__})."
            raise stripe.APIConnectionError(failure) from error  # type: ignore[no-untyped-call]
        return body, response.status, response.headers

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()


class StripeApi:
    """One Stripe account. Connects with the first call; safe to share between threads.

    `connections` is how many are kept open, at least as many as there are threads that use it.
    """

    def __init__(self, settings: StripeSettings, connections: int) -> None:
        if settings.secret_key is None:
            raise AssertionError("a run without a key does not get here")
        self._transport = _Transport(connections)
        # What Stripe says is kept on record; it must not quote the key there.
        self._redact = Redactor([settings.secret_key])
        base = {"api": settings.api_base, "meter_events": settings.api_base} if settings.api_base else {}
        self._client = StripeClient(
            settings.secret_key,
            max_network_retries=0,
            http_client=self._transport,
            base_addresses=base,  # type: ignore[arg-type]  # two of its keys, which it completes
        )

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def send(self, event: MeterEvent, idempotency_key: str) -> Answer:
        """Send one meter event, once. Answers whatever happens; an answer that names another event is not readable."""
        try:
            taken = self._client.v1.billing.meter_events.create(
                {
                    "event_name": event.event_name,
                    "identifier": event.identifier,
                    "payload": dict(event.payload),
                    "timestamp": int(event.timestamp.timestamp()),
                },
                {"idempotency_key": idempotency_key},
            )
            return Answer(200, readable=taken.identifier == event.identifier)
        except stripe.StripeError as error:
            return self._answer(error)
        except Exception as error:  # noqa: BLE001  the SDK lets nonsense through as whatever it trips over
            return Answer(200, readable=False, message=type(error).__name__)

    def meter(self, meter_id: str) -> Meter:
        """Read a meter. Raises CallFailed."""
        return self._read(lambda: _meter(_about("id", meter_id, self._client.v1.billing.meters.retrieve(meter_id))))

    def subscriptions(self, customer: str) -> Sequence[Subscription]:
        """Read all subscriptions that a customer has or had. Raises CallFailed."""

        def read() -> list[Subscription]:
            found = self._client.v1.subscriptions.list({"customer": customer, "status": "all", "limit": _LARGEST_PAGE})
            return [_subscription(_about("customer", customer, item)) for item in _all(found)]

        return self._read(read)

    def usage(
        self, meter_id: str, customer: str, start: datetime, end: datetime, grouping: Grouping | None = None
    ) -> Mapping[datetime, float]:
        """What Stripe has counted, by the start of each span (see shared.stripe_calls). Raises CallFailed."""

        def read() -> dict[datetime, float]:
            asked: dict[str, Any] = {
                "customer": customer,
                "start_time": int(start.timestamp()),
                "end_time": int(end.timestamp()),
                "limit": _LARGEST_PAGE,
            }
            if grouping is not None:
                asked["value_grouping_window"] = grouping
            found = self._client.v1.billing.meters.event_summaries.list(meter_id, asked)  # type: ignore[arg-type]  # a dict of its keys
            counted: dict[datetime, float] = {}
            for item in _all(found):
                summary = _about("meter", meter_id, item)
                value = float(summary["aggregated_value"])
                if not math.isfinite(value):
                    raise ValueError("a sum is no number")
                begun = datetime.fromtimestamp(summary["start_time"], UTC)
                counted[begun] = counted.get(begun, 0) + value
            return counted

        return self._read(read)

    def refusal_reports(
        self, since: datetime, until: datetime | None, most: int | None = None
    ) -> Sequence[RefusalReport]:
        """The reports of later refusals created from `since` on and before `until` (see shared.stripe_calls).

        Raises CallFailed.
        """
        created = {"gte": format_rfc3339(since)}
        if until is not None:
            created["lt"] = format_rfc3339(until)
        limit = min(most or _LARGEST_PAGE, _LARGEST_PAGE)
        asked: dict[str, Any] = {"types": [_REFUSED_LATER, _NO_METER], "created": created, "limit": limit}

        def read() -> list[RefusalReport]:
            found = self._client.v2.core.events.list(asked)  # type: ignore[arg-type]  # a dict of its keys
            listed = (_report(event.to_dict()) for event in islice(_all(found), most))
            return sorted(listed, key=lambda report: report.created)

        return self._read(read)

    def refusal_report(self, report_id: str) -> RefusalReport:
        """One of them, with its refusals. Raises CallFailed."""

        def read() -> RefusalReport:
            report = _report(_about("id", report_id, self._client.v2.core.events.retrieve(report_id)))
            if report.refusals is not None:
                return report
            return replace(report, refusals=(), is_readable=False)

        return self._read(read)

    def _read(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except stripe.StripeError as error:
            raise CallFailed(self._answer(error)) from error
        except Exception as error:
            # Whatever the SDK or we trip over in an answer that is not what Stripe documents.
            raise CallFailed(Answer(200, readable=False, message=type(error).__name__)) from error

    def _answer(self, error: stripe.StripeError) -> Answer:
        body = error.json_body if isinstance(error.json_body, dict) else {}
        said = body.get("error")
        fields = said if isinstance(said, dict) else {}
        status = error.http_status if isinstance(error.http_status, int) else None
        message = _text(fields.get("message")) or str(error.user_message or type(error).__name__)
        return Answer(
            status,
            # An error that has no form of Stripe's comes from something in between: all of Stripe's have a type.
            readable=status is None or isinstance(fields.get("type"), str),
            code=_text(fields.get("code")),
            kind=_text(fields.get("type")),
            message=self._redact(message)[:_LONGEST_MESSAGE],
            retry_after=_retry_after(error.headers or {}),
        )


def _text(value: object) -> str | None:
    """The text, without what PostgreSQL cannot keep: NUL, and halves of characters."""
    return _UNKEPT.sub("?", value) if isinstance(value, str) else None


def _all(found: Any) -> Iterator[Any]:
    """All items of a list, page after page. Raises ValueError for a list that has no end."""
    first = None
    for number, item in enumerate(found.auto_paging_iter()):
        if number == _LONGEST_LIST or item.id == first:
            raise ValueError("the list has no end")
        first = first or item.id
        yield item


def _about(key: str, asked: str, item: Any) -> dict[str, Any]:
    """What an item says, if it is about what was asked for. Raises ValueError otherwise."""
    fields: dict[str, Any] = item.to_dict()
    if fields[key] != asked:
        raise ValueError("the answer is about something else")
    return fields


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds; the form with a date is not Stripe's."""
    value = next((value for name, value in headers.items() if name.lower() == "retry-after"), "")
    return min(float(value), 3600.0) if value.isascii() and value.isdigit() else None


def _meter(raw: Mapping[str, Any]) -> Meter:
    return Meter(
        id=raw["id"],
        event_name=raw["event_name"],
        status=raw["status"],
        formula=raw["default_aggregation"]["formula"],
        event_time_window=raw.get("event_time_window"),
        customer_key=raw["customer_mapping"]["event_payload_key"],
        value_key=raw["value_settings"]["event_payload_key"],
        livemode=raw["livemode"],
    )


def _subscription(raw: Mapping[str, Any]) -> Subscription:
    items = raw["items"]
    return Subscription(
        id=raw["id"],
        status=raw["status"],
        start=datetime.fromtimestamp(raw["start_date"], UTC),
        ended_at=None if raw.get("ended_at") is None else datetime.fromtimestamp(raw["ended_at"], UTC),
        meters=frozenset(_meters(items["data"])),
        all_shown=not items.get("has_more"),
    )


def _meters(items: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for item in items:
        meter = ((item.get("price") or {}).get("recurring") or {}).get("meter")
        if meter:
            yield meter


def _report(event: Mapping[str, Any]) -> RefusalReport:
    key, created = str(event["id"]), parse_rfc3339(event["created"])
    try:
        meter = (event.get("related_object") or {}).get("id")
        # A list may leave out what the event is about ("Events", Stripe API v2: data has to be fetched).
        data = event.get("data")
        told = None if data is None else [_refusal(kind) for kind in data["reason"]["error_types"]]
        return RefusalReport(key, created, meter, told)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        return RefusalReport(key, created, None, (), is_readable=False)


def _refusal(kind: Mapping[str, Any]) -> Refusal:
    named = {}
    for sample in kind.get("sample_errors") or ():
        identifier = _text((sample.get("request") or {}).get("identifier"))
        if identifier is not None:
            named[identifier] = (_text(sample.get("error_message")) or "")[:_LONGEST_MESSAGE]
    return Refusal(code=_text(kind["code"]) or "unknown", count=int(kind["error_count"]), named=named)
