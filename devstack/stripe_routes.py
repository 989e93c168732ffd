"""The paths that the Stripe stand-in knows: a method and a target in, a status and a JSON object out. No I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final
from urllib.parse import parse_qsl, unquote, urlencode

from devstack.stripe_account import Account
from devstack.stripe_objects import Json, Refused, epoch, invalid
from shared.clock import parse_rfc3339

Params = Mapping[str, str]

_PAGING: Final = ("limit", "starting_after", "ending_before")
_SUBSCRIPTION_STATUSES: Final = frozenset(
    {
        *("active", "all", "canceled", "ended", "incomplete", "incomplete_expired", "past_due", "paused"),
        *("trialing", "unpaid"),
    }
)
_RANGES: Final[Mapping[str, Callable[[datetime, datetime], bool]]] = {
    "created[gt]": lambda created, bound: created > bound,
    "created[gte]": lambda created, bound: created >= bound,
    "created[lt]": lambda created, bound: created < bound,
    "created[lte]": lambda created, bound: created <= bound,
}
_EXPAND = re.compile(r"expand\[\d+\]")
_WHOLE = re.compile(r"-?\d{1,18}", re.ASCII)


def read_params(text: str) -> dict[str, str]:
    """The parameters of a query or a form, by their names as sent: `payload[value]`."""
    return dict(parse_qsl(text, keep_blank_values=True))


class Routes:
    """What the account answers on each path."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._gets: tuple[tuple[re.Pattern[str], Callable[..., Json]], ...] = (
            (re.compile(r"/v1/billing/meters"), self._meters),
            (re.compile(r"/v1/billing/meters/([^/]+)"), self._meter),
            (re.compile(r"/v1/billing/meters/([^/]+)/event_summaries"), self._summaries),
            (re.compile(r"/v1/subscriptions"), self._subscriptions),
            (re.compile(r"/v1/subscriptions/([^/]+)"), self._subscription),
            (re.compile(r"/v1/customers/([^/]+)"), self._customer),
            (re.compile(r"/v2/core/events"), self._events),
            (re.compile(r"/v2/core/events/([^/]+)"), self._event),
        )

    def get(self, path: str, params: Params) -> Json:
        """Answer a read. Raises `Refused`."""
        for pattern, answer in self._gets:
            match = pattern.fullmatch(path)
            if match is not None:
                return answer(params, *map(unquote, match.groups()))
        raise unknown_path("GET", path)

    def create_event(self, params: Params) -> Json:
        """Take a meter event in. Raises `Refused`."""
        payload = {name[8:-1]: value for name, value in params.items() if name.startswith("payload[")}
        _only(params, "event_name", "identifier", "timestamp", *(f"payload[{key}]" for key in payload))
        if not params.get("event_name"):
            raise _required("event_name")
        if not payload:
            raise _required("payload")
        if len(params["event_name"]) > 100:
            raise invalid("Invalid event_name: it must have at most 100 characters.", param="event_name")
        timestamp = _integer(params, "timestamp") if "timestamp" in params else None
        event = self._account.receive(params["event_name"], payload, params.get("identifier"), timestamp)
        return {
            "object": "billing.meter_event",
            "created": epoch(event.received_at),
            "event_name": event.event_name,
            "identifier": event.identifier,
            "livemode": self._account.livemode,
            "payload": payload,
            "timestamp": epoch(event.timestamp),
        }

    def own(self, path: str, params: Params) -> Json:
        """Answer what only the stand-in knows: the truth about what was counted, and when events came in."""
        if path == "/standin/counted":
            start, end = (_moment(params, name) for name in ("start", "end"))
            return {"counted": self._account.counted(params.get("customer") or None, start, end)}
        if path == "/standin/rates":
            rates = self._account.received_per_second()
            return {"rates": [{"second": second, "events": rates[second]} for second in sorted(rates)]}
        raise unknown_path("GET", path)

    def _meters(self, params: Params) -> Json:
        _only(params, "status", *_PAGING)
        meters = [meter for meter in reversed(self._account.meters) if params.get("status") in (None, meter.status)]
        return _page([meter.to_json() for meter in meters], params, "/v1/billing/meters")

    def _meter(self, params: Params, id_: str) -> Json:
        _only(params)
        return self._account.find_meter(id_).to_json()

    def _summaries(self, params: Params, id_: str) -> Json:
        _only(params, "customer", "start_time", "end_time", "value_grouping_window", *_PAGING)
        if not params.get("customer"):
            raise _required("customer")
        start, end = (_moment(params, name) for name in ("start_time", "end_time"))
        found = self._account.summaries(id_, params["customer"], start, end, params.get("value_grouping_window"))
        return _page([summary.to_json() for summary in found], params, f"/v1/billing/meters/{id_}/event_summaries")

    def _subscriptions(self, params: Params) -> Json:
        _only(params, "customer", "status", *_PAGING)
        status = params.get("status")
        if status is not None and status not in _SUBSCRIPTION_STATUSES:
            raise invalid(f"Invalid status: {status}", param="status")
        found = self._account.subscriptions(params.get("customer"), status)
        now = self._account.clock.now()
        return _page([subscription.to_json(now) for subscription in found], params, "/v1/subscriptions")

    def _subscription(self, params: Params, id_: str) -> Json:
        _only(params)
        return self._account.find_subscription(id_).to_json(self._account.clock.now())

    def _customer(self, params: Params, id_: str) -> Json:
        _only(params)
        if self._account.is_deleted(id_, status=404, param="id"):
            return {"id": id_, "object": "customer", "deleted": True}
        return {"id": id_, "object": "customer", "livemode": self._account.livemode, "metadata": {}}

    def _events(self, params: Params) -> Json:
        types = [value for name, value in params.items() if name.startswith("types[")]
        _only(params, "object_id", "limit", "page", *_RANGES, *(name for name in params if name.startswith("types[")))
        if len(types) > 20:
            raise invalid("types must have at most 20 elements.", param="types")
        bounds = [(_RANGES[name], _rfc3339(params, name)) for name in _RANGES if name in params]
        found = [
            report
            for report in self._account.thin_events()
            if (not types or report.type in types)
            and params.get("object_id") in (None, report.meter_id)
            and all(holds(report.created, bound) for holds, bound in bounds)
        ]
        limit = _limit(params)
        ids = [report.id for report in found]
        start = _index(ids, params["page"].removeprefix("page_"), "page") + 1 if "page" in params else 0
        page = found[start : start + limit]
        more = None
        if start + limit < len(found):
            more = "/v2/core/events?" + urlencode({**params, "page": f"page_{page[-1].id}"})
        return {
            "data": [report.to_json(with_data=self._account.list_data) for report in page],
            "next_page_url": more,
            "previous_page_url": None,
        }

    def _event(self, params: Params, id_: str) -> Json:
        _only(params)
        for report in self._account.thin_events():
            if report.id == id_:
                return report.to_json()
        raise invalid(f"No such event: '{id_}'", code="not_found", status=404)


def unknown_path(method: str, path: str) -> Refused:
    """Stripe's answer on a path that it does not know."""
    return invalid(f"Unrecognized request URL ({method}: {path}).", status=404)


def _only(params: Params, *known: str) -> None:
    for name in params:
        if name not in known and not _EXPAND.fullmatch(name):
            raise invalid(f"Received unknown parameter: {name}", code="parameter_unknown", param=name)


def _required(name: str) -> Refused:
    return invalid(f"Missing required param: {name}.", code="parameter_missing", param=name)


def _integer(params: Params, name: str) -> int:
    text = params.get(name)
    if not text:
        raise _required(name)
    if not _WHOLE.fullmatch(text):
        raise invalid(f"Invalid integer: {text}", code="parameter_invalid_integer", param=name)
    return int(text)


def _moment(params: Params, name: str) -> datetime:
    try:
        return datetime.fromtimestamp(_integer(params, name), UTC)
    except (ValueError, OverflowError, OSError):
        raise invalid(f"Invalid timestamp: {params[name]}", param=name) from None


def _rfc3339(params: Params, name: str) -> datetime:
    try:
        return parse_rfc3339(params[name])
    except ValueError:
        raise invalid(f"Invalid timestamp: {params[name]}", param=name) from None


def _limit(params: Params, usual: int = 10) -> int:
    limit = _integer(params, "limit") if "limit" in params else usual
    if not 1 <= limit <= 100:
        raise invalid("This value must be from 1 to 100.", code="parameter_invalid_integer", param="limit")
    return limit


def _index(ids: Sequence[str], id_: str, param: str) -> int:
    if id_ not in ids:
        raise invalid(f"No such object: '{id_}'", code="resource_missing", param=param)
    return ids.index(id_)


def _page(rows: Sequence[Json], params: Params, url: str) -> Json:
    """The page of the first version's lists that the parameters ask for."""
    limit = _limit(params)
    ids = [row["id"] for row in rows]
    if "ending_before" in params:
        stop = _index(ids, params["ending_before"], "ending_before")
        start = max(0, stop - limit)
        more = start > 0
    else:
        start = _index(ids, params["starting_after"], "starting_after") + 1 if "starting_after" in params else 0
        stop = start + limit
        more = stop < len(rows)
    return {"object": "list", "data": list(rows[start:stop]), "has_more": more, "url": url}
