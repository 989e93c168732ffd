"""Two ways to report usage to Stripe: the job, and the SDK in a bare loop with no database.

Run as `python -m benchmarks.stripe_child job [LIMIT]` with the settings of a function: says as JSON how long it took,
its counts, its longest transactions, what it read from Stripe, its CPU time and its peak memory. As `bare EVENTS
CUSTOMERS` it sends so many events for so many customers with as many threads as the job, through the SDK's own
transport, as fast as it can.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.child import peak_mib
from benchmarks.timed import TimedServices
from functions.registry import JOBS
from shared.clock import SystemClock
from shared.invocation import Invocation
from shared.outcome import Status
from shared.runner import run_job

THREADS = 128

Measured = dict[str, Any]


def job(limit: str | None = None) -> Measured:
    """The job as it runs in production: through the runner, with every guard, on the real servers."""
    with open(os.devnull, "w", encoding="utf-8") as log:
        services = TimedServices(dict(os.environ), SystemClock(), log)
        invocation = Invocation(trigger="schedule", limit=None if limit is None else int(limit))
        began = time.perf_counter()
        outcome = run_job(services, JOBS["stripe_reconcile"], invocation)
        took = time.perf_counter() - began
        database, stripe = services.database, services.stripe
        database.dispose()
        stripe.close()
    if outcome.status not in (Status.COMPLETED, Status.INCOMPLETE):
        raise RuntimeError(outcome.message)
    longest = {f"longest_{name}": value for name, value in database.longest.items()}
    return {
        "status": outcome.status.value,
        "seconds": took,
        "counts": dict(outcome.counts),
        "reads": dict(stripe.reads),
        **longest,
    }


def bare(events: str, customers: str) -> Measured:
    """A loop over the SDK's client in threads. Each thread has customers of its own: one call a customer at a time."""
    from stripe import StripeClient  # here, so that the job's start is not measured with it

    base: Any = {"api": os.environ["STRIPE_API_BASE"]}
    client = StripeClient(os.environ["STRIPE_SECRET_KEY"], max_network_retries=0, base_addresses=base)
    meter = client.v1.billing.meters.retrieve(os.environ["STRIPE_METER_PAGES"])
    each = int(events) // THREADS

    def send(thread: int) -> None:
        names = [f"cus_bare{number}" for number in range(thread, int(customers), THREADS)]
        for number in range(each):
            payload = {
                meter.customer_mapping.event_payload_key: names[number % len(names)],
                meter.value_settings.event_payload_key: "1",
            }
            at = int(time.time())
            client.v1.billing.meter_events.create(
                {
                    "event_name": meter.event_name,
                    "identifier": f"bare-{thread}-{number}",
                    "payload": payload,
                    "timestamp": at,
                },
                {"idempotency_key": f"bare-{thread}-{number}"},
            )

    threads = [threading.Thread(target=send, args=(number,)) for number in range(THREADS)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"seconds": time.perf_counter() - began, "events": each * THREADS}


WAYS: Mapping[str, Callable[..., Measured]] = {"job": job, "bare": bare}


def _main(way: str, *arguments: str) -> None:
    began = time.process_time()
    measured = WAYS[way](*arguments)
    measured |= {"cpu_seconds": time.process_time() - began, "peak_mib": peak_mib()}
    sys.stdout.write(json.dumps(measured) + "\n")


if __name__ == "__main__":
    _main(*sys.argv[1:])
