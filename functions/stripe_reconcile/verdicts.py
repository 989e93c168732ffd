"""What an answer of Stripe's means for the event that was sent, and for the run. Pure decisions.

The facts are in Stripe's documentation ("Record usage for billing with the API", "Error handling", "Rate limits").
"""

import enum
import re

from shared.stripe_calls import Answer

_EXISTS = re.compile(r"already exists with identifier", re.IGNORECASE)
_TOO_OLD = re.compile(r"timestamp cannot be more than|timestamp_too_far_in_past", re.IGNORECASE)
_CUSTOMER_CODES = {"lock_timeout", "too_many_concurrent_requests"}
# Answers that say nothing about whether the request was carried out.
_UNDECIDED = {408, 425, 499}
# The meter, not the event: what holds for one event here holds for all.
_METER_CODES = {"archived_meter", "no_meter", "meter_not_found"}


class Verdict(enum.Enum):
    """What became of one attempt."""

    ACCEPTED = "Stripe has taken it"
    EXISTS = "Stripe has it from an earlier attempt, or from the service"
    REJECTED = "Stripe refuses this event for good"
    TOO_OLD = "Stripe takes no event that old"
    IN_DOUBT = "nobody knows whether Stripe has it"
    THROTTLED = "Stripe did not look at it: too many calls"
    CUSTOMER_BUSY = "Stripe did not look at it: another call for this customer is under way"
    MISCONFIGURED = "Stripe refuses everybody's events: key, rights or meter"


def judge(answer: Answer) -> Verdict:
    """What an attempt to send an event came to.

    An answer that is none of Stripe's (a proxy's, an outage's) leaves the event in doubt, whatever its status.
    """
    status = answer.status
    if status is None or not answer.readable or status >= 500 or 300 <= status < 400 or status in _UNDECIDED:
        return Verdict.IN_DOUBT
    if status < 300:
        return Verdict.ACCEPTED
    if status == 409 or answer.code in _CUSTOMER_CODES:
        return Verdict.CUSTOMER_BUSY
    if status == 429 or answer.code == "rate_limit":
        return Verdict.THROTTLED
    if _EXISTS.search(answer.message) or answer.code == "duplicate_meter_event":
        return Verdict.EXISTS
    if status in (401, 403, 404, 405) or answer.code in _METER_CODES:
        return Verdict.MISCONFIGURED
    if answer.kind == "idempotency_error":
        # Our key was used for something else: that says nothing about this event.
        return Verdict.IN_DOUBT
    if _TOO_OLD.search(answer.message) or answer.code == "timestamp_too_far_in_past":
        return Verdict.TOO_OLD
    return Verdict.REJECTED
