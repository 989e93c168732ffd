"""The Stripe stand-in as a process of its own, so that its work is not measured with the job's; and what it knows."""

import http.client
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import urlencode

from benchmarks.child import environment

_THREADS = 8
_EVER = {"start": 0, "end": int(datetime(9999, 1, 1, tzinfo=UTC).timestamp())}


@dataclass(frozen=True)
class Sent:
    """An event as the service has sent it, or as we have. The service gives no identifier."""

    customer: str
    pages: int
    at: datetime
    identifier: str | None = None


class StandIn:
    """A stand-in while the `with` block lasts. `latency`, in seconds, is what every answer takes."""

    def __init__(self, latency: float) -> None:
        self._process = subprocess.Popen(  # noqa: S603  our own module, no shell
            [sys.executable, "-m", "devstack.stripe_server", "--no-record", "--latency", str(latency)],
            env=environment({}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._shown: dict[str, str] = {}

    def __enter__(self) -> Self:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            self._process.kill()
            self._process.wait()
            raise RuntimeError("the Stripe stand-in did not start")
        self._shown = json.loads(line)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # It ends with its standard input.
        self._process.communicate()

    @property
    def settings(self) -> Mapping[str, str]:
        """A function's settings that lead here. An empty one is as if not set, whatever the environment says."""
        return {
            "STRIPE_SECRET_KEY": self._shown["secret_key"],
            "STRIPE_METER_PAGES": self._shown["meter"],
            "STRIPE_API_BASE": self._shown["url"],
            "STRIPE_METER_EVENT_NAME": "",
            "STRIPE_TAKEOVER_AT": "",
            "STRIPE_MIN_AGE_MINUTES": "",
            "STRIPE_INVOICE_GRACE_MINUTES": "",
            "STRIPE_RATE": "",
            "STRIPE_READ_RATE": "",
            "FREE_PLAN_CODES": "",
            "MAINTENANCE_MODE": "",
            "MAX_CONCURRENT_JOBS": "",
            "JOB_TIMEOUT_SECONDS": "",
        }

    def put(self, events: Iterable[Sent]) -> None:
        """Send events, some customers at once; those of one customer one after the other."""
        meter = self._ask("GET", f"/v1/billing/meters/{self._shown['meter']}")
        customer_key = meter["customer_mapping"]["event_payload_key"]
        value_key = meter["value_settings"]["event_payload_key"]
        ordered = sorted(events, key=lambda event: event.customer)
        lanes = [list(group) for _, group in groupby(ordered, key=lambda event: event.customer)]

        def put(share: Sequence[Sequence[Sent]]) -> None:
            connection = self._connection()
            for event in (event for lane in share for event in lane):
                form = {
                    "event_name": meter["event_name"],
                    "timestamp": int(event.at.timestamp()),
                    f"payload[{customer_key}]": event.customer,
                    f"payload[{value_key}]": event.pages,
                }
                if event.identifier is not None:
                    form["identifier"] = event.identifier
                self._ask("POST", "/v1/billing/meter_events", form, connection)
            connection.close()

        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(put, [lanes[number::_THREADS] for number in range(_THREADS)]))

    def counted(self, customer: str) -> int:
        """How many pages have been counted for a customer, of all times."""
        asked = urlencode({"customer": customer, **_EVER})
        return int(self._ask("GET", f"/standin/counted?{asked}")["counted"])

    def received_per_second(self) -> Mapping[int, int]:
        """How many events came in in each second (since 1970) that had any."""
        rates = self._ask("GET", "/standin/rates")["rates"]
        return {rate["second"]: rate["events"] for rate in rates}

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self._shown["url"].removeprefix("http://"))

    def _ask(
        self,
        method: str,
        target: str,
        form: Mapping[str, object] | None = None,
        connection: http.client.HTTPConnection | None = None,
    ) -> dict[str, Any]:
        own = connection or self._connection()
        headers = {"Authorization": f"Bearer {self._shown['secret_key']}"}
        if form is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        own.request(method, target, None if form is None else urlencode(form), headers)
        answer = own.getresponse()
        body = answer.read()
        if connection is None:
            own.close()
        if answer.status != http.HTTPStatus.OK:
            raise RuntimeError(f"the Stripe stand-in answered {answer.status}: {body!r}")
        return cast(dict[str, Any], json.loads(body))
