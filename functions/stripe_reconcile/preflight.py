"""Is the meter what it must be? Asked before anything is sent, and again when Stripe refuses an event."""

from dataclasses import dataclass

from shared.errors import Misconfigured
from shared.stripe_calls import Meter
from shared.stripe_settings import StripeSettings

_SETTING = "STRIPE_METER_PAGES"


@dataclass(frozen=True)
class Target:
    """Where events go: the meter, and the words it wants them in."""

    meter_id: str
    event_name: str
    customer_key: str
    value_key: str


def target_of(meter: Meter, settings: StripeSettings) -> Target:
    """What to send events as. Raises Misconfigured unless the meter is active and sums up what it gets."""
    if meter.status != "active":
        raise Misconfigured(
            _SETTING, f"The meter {meter.id} is {meter.status!r} at Stripe. Activate it, or name another."
        )
    if meter.formula != "sum":
        raise Misconfigured(
            _SETTING,
            f"The meter {meter.id} aggregates by {meter.formula!r}. Pages need a meter with the formula 'sum'.",
        )
    if meter.event_time_window is not None:
        raise Misconfigured(
            _SETTING,
            f"The meter {meter.id} counts one event an {meter.event_time_window}, and would drop the others. Pages "
            "need a meter without an event_time_window.",
        )
    if meter.livemode != settings.livemode:
        raise Misconfigured(_SETTING, f"The meter {meter.id} is not of the mode that STRIPE_SECRET_KEY is for.")
    if settings.event_name is not None and settings.event_name != meter.event_name:
        raise Misconfigured(
            "STRIPE_METER_EVENT_NAME",
            f"STRIPE_METER_EVENT_NAME is {settings.event_name!r}, and the meter {meter.id} counts events named "
            f"{meter.event_name!r}: what is sent would count nowhere. Take the setting away.",
        )
    return Target(meter.id, meter.event_name, meter.customer_key, meter.value_key)
