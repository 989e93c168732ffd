"""When a customer was paying for pages: read off its subscriptions. Pure decisions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from shared.stripe_calls import Subscription

# Never paid for: Stripe made the subscription, and its first payment did not come ("Subscription object", status).
_NEVER_BEGAN = frozenset({"incomplete", "incomplete_expired"})


@dataclass(frozen=True)
class Span:
    """A time in which a customer was paying: from `start` to before `end`; None for no end."""

    start: datetime
    end: datetime | None


def paying_spans(subscriptions: Iterable[Subscription], meter_id: str) -> Sequence[Span] | None:
    """When usage on the meter was to be billed, by subscription.

    None where Stripe listed only some of a subscription's prices, and the meter's is not among them: nothing can be
    said then.
    """
    spans = []
    for subscription in subscriptions:
        if subscription.status in _NEVER_BEGAN:
            continue
        if meter_id in subscription.meters:
            spans.append(Span(subscription.start, subscription.ended_at))
        elif not subscription.all_shown:
            return None
    return spans
