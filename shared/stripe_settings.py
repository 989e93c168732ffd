"""The settings of the jobs that speak to Stripe."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from shared.environ import moment, number, optional_number, text
from shared.errors import Misconfigured

# Stripe's limits: 1,000 meter events a second with a live key, which the live service shares; 25 calls a second in all
# with a test key ("Rate limits", Stripe documentation).
_LIVE_RATE, _TEST_RATE = 200, 10
_LARGEST_READ_RATE = 20


@dataclass(frozen=True)
class StripeSettings:
    """What the environment says about Stripe. Rates are calls a second.

    `secret_key` and `meter_id` are None where they are not set: only a job that needs Stripe misses them, and says so.
    """

    secret_key: str | None = field(repr=False)
    meter_id: str | None
    event_name: str | None
    api_base: str | None
    takeover_at: datetime | None
    min_age: timedelta
    invoice_grace: timedelta
    rate: int
    read_rate: int

    @property
    def livemode(self) -> bool | None:
        """Whether the key is a live one; None without a key."""
        return None if self.secret_key is None else _is_live(self.secret_key)


def stripe_settings(environ: Mapping[str, str]) -> StripeSettings:
    """Read the settings. Raises Misconfigured for the first one that is malformed; a missing one is no error yet."""
    key = text(environ, "STRIPE_SECRET_KEY")
    if key is not None and not re.fullmatch(r"(sk|rk)_(live|test)_\S+", key, re.ASCII):
        raise Misconfigured("STRIPE_SECRET_KEY", "STRIPE_SECRET_KEY must be a secret or restricted key: sk_live_… .")
    rate = number(environ, "STRIPE_RATE", _LIVE_RATE if _is_live(key) else _TEST_RATE, 1, 10_000)
    read_rate = optional_number(environ, "STRIPE_READ_RATE", 1, 10_000)
    return StripeSettings(
        secret_key=key,
        meter_id=_meter_id(environ),
        event_name=_event_name(environ),
        api_base=_api_base(environ, key),
        takeover_at=moment(environ, "STRIPE_TAKEOVER_AT"),
        min_age=timedelta(minutes=number(environ, "STRIPE_MIN_AGE_MINUTES", 15, 1, 1440)),
        invoice_grace=timedelta(minutes=number(environ, "STRIPE_INVOICE_GRACE_MINUTES", 60, 0, 4320)),
        rate=rate,
        read_rate=min(max(rate // 2, 1), _LARGEST_READ_RATE) if read_rate is None else read_rate,
    )


def _meter_id(environ: Mapping[str, str]) -> str | None:
    value = text(environ, "STRIPE_METER_PAGES")
    if value is not None and not re.fullmatch(r"mtr_\w{1,250}", value, re.ASCII):
        raise Misconfigured(
            "STRIPE_METER_PAGES", "STRIPE_METER_PAGES must be the id of the meter that pages are reported to: mtr_… ."
        )
    return value


def _event_name(environ: Mapping[str, str]) -> str | None:
    value = text(environ, "STRIPE_METER_EVENT_NAME")
    if value is not None and len(value) > 100:
        raise Misconfigured("STRIPE_METER_EVENT_NAME", "STRIPE_METER_EVENT_NAME must have 100 characters at most.")
    return value


def _api_base(environ: Mapping[str, str], key: str | None) -> str | None:
    value = text(environ, "STRIPE_API_BASE")
    if value is None:
        return None
    try:
        parts = urlsplit(value)
        well_formed = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        well_formed = False
    if not well_formed or parts.path not in ("", "/") or parts.query or parts.username:
        raise Misconfigured("STRIPE_API_BASE", "STRIPE_API_BASE must look like https://api.stripe.com.")
    if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1") and _is_live(key):
        raise Misconfigured("STRIPE_API_BASE", "STRIPE_API_BASE must begin with https:// where the key is a live one.")
    return value.rstrip("/")


def _is_live(key: str | None) -> bool:
    return key is not None and key.split("_")[1] == "live"
