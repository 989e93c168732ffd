"""The settings about Stripe: defaults, and the sentence for each that is wrong."""

from datetime import UTC, datetime, timedelta

import pytest

from shared.errors import Misconfigured
from shared.settings import parse_settings
from shared.stripe_settings import stripe_settings

BASE = {"DATABASE_URL": "postgresql://ann@db.example/byte"}


def test_without_a_key_other_jobs_miss_nothing() -> None:
    settings = parse_settings(BASE).stripe
    assert (settings.secret_key, settings.meter_id, settings.livemode) == (None, None, None)


@pytest.mark.parametrize(
    ("key", "livemode", "rate", "read_rate"),
    [
        ("sk_live_abc", True, 200, 20),
        ("rk_live_abc", True, 200, 20),
        ("sk_test_abc", False, 10, 5),
        ("rk_test_live_abc", False, 10, 5),
    ],
)
def test_the_rates_go_by_the_kind_of_key(key: str, livemode: bool, rate: int, read_rate: int) -> None:
    settings = stripe_settings({"STRIPE_SECRET_KEY": key})
    assert (settings.livemode, settings.rate, settings.read_rate) == (livemode, rate, read_rate)


def test_the_rest_of_the_defaults() -> None:
    settings = stripe_settings({})
    assert settings.takeover_at is None
    assert (settings.min_age, settings.invoice_grace) == (timedelta(minutes=15), timedelta(hours=1))
    assert (settings.api_base, settings.event_name) == (None, None)


def test_what_is_set_is_taken() -> None:
    settings = stripe_settings(
        {
            "STRIPE_SECRET_KEY": "sk_live_abc",
            "STRIPE_METER_PAGES": "mtr_61Tz",
            "STRIPE_METER_EVENT_NAME": "pages",
            "STRIPE_API_BASE": "https://stripe.example:8443/",
            "STRIPE_TAKEOVER_AT": "2026-05-01T02:00:00+02:00",
            "STRIPE_MIN_AGE_MINUTES": "30",
            "STRIPE_INVOICE_GRACE_MINUTES": "4320",
            "STRIPE_RATE": "800",
            "STRIPE_READ_RATE": "90",
        }
    )
    assert settings.takeover_at == datetime(2026, 5, 1, tzinfo=UTC)
    assert settings.api_base == "https://stripe.example:8443"
    assert (settings.rate, settings.read_rate, settings.meter_id) == (800, 90, "mtr_61Tz")
    assert settings.invoice_grace == timedelta(hours=72)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STRIPE_SECRET_KEY", "pk_live_abc"),
        ("STRIPE_SECRET_KEY", "whsec_abc"),
        ("STRIPE_SECRET_KEY", "sk_live_"),
        ("STRIPE_SECRET_KEY", "sk_live_a b"),
        ("STRIPE_METER_PAGES", "pages"),
        ("STRIPE_METER_PAGES", "mtr_1/../../accounts"),
        ("STRIPE_METER_EVENT_NAME", "x" * 101),
        ("STRIPE_API_BASE", "api.stripe.com"),
        ("STRIPE_API_BASE", "ftp://api.stripe.com"),
        ("STRIPE_API_BASE", "https://"),
        ("STRIPE_API_BASE", "https://api.stripe.com/v1"),
        ("STRIPE_API_BASE", "https://user:secret@api.stripe.com"),
        ("STRIPE_API_BASE", "https://api.stripe.com:port"),
        ("STRIPE_TAKEOVER_AT", "2026-05-01"),
        ("STRIPE_TAKEOVER_AT", "2026-05-01T00:00:00"),
        ("STRIPE_MIN_AGE_MINUTES", "0"),
        ("STRIPE_MIN_AGE_MINUTES", "-1"),
        ("STRIPE_INVOICE_GRACE_MINUTES", "4321"),
        ("STRIPE_RATE", "0"),
        ("STRIPE_RATE", "1.5"),
        ("STRIPE_READ_RATE", "many"),
    ],
)
def test_what_is_wrong_is_named_and_a_key_is_not_quoted(name: str, value: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        parse_settings({**BASE, name: value})
    assert caught.value.setting == name
    assert name in str(caught.value)
    assert "_abc" not in str(caught.value)


def test_a_live_key_is_not_sent_in_the_clear() -> None:
    environ = {"STRIPE_SECRET_KEY": "sk_live_abc", "STRIPE_API_BASE": "http://stripe.example"}
    with pytest.raises(Misconfigured, match="https://"):
        stripe_settings(environ)
    assert stripe_settings({**environ, "STRIPE_SECRET_KEY": "sk_test_abc"}).api_base == "http://stripe.example"
    assert stripe_settings({**environ, "STRIPE_API_BASE": "http://127.0.0.1:1"}).api_base == "http://127.0.0.1:1"


def test_the_key_is_a_secret_of_the_settings() -> None:
    settings = parse_settings({**BASE, "STRIPE_SECRET_KEY": "sk_live_abc"})
    assert "sk_live_abc" in settings.secrets
    assert "sk_live_abc" not in repr(settings)
