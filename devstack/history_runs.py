"""The runs of a month: each firing of each job, what came of its attempts, and what people ran by hand."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from devstack.history_figures import counted, figures
from devstack.history_story import OPERATORS, PAUSED_FOR_STRIPE, Attempt, Story
from functions.registry import JOBS
from shared.clock import format_rfc3339
from shared.job import Job

_PERIOD, _STRIPE, _USAGE = JOBS["period_reset"], JOBS["stripe_reconcile"], JOBS["usage_counter_cleanup"]
_ABANDONED, _ARTIFACT, _OPT_OUT = JOBS["abandoned_cleanup"], JOBS["artifact_cleanup"], JOBS["opt_out_cleanup"]
# No job of functions/jobs.json: `python -m ops erase` runs it, once for each request.
ON_REQUEST = replace(_OPT_OUT, name="erasure_on_request", cli="erase", counts=(*_OPT_OUT.counts, "parents_deleted"))
_STOP_BEFORE_SECONDS = 60
_DAY = timedelta(days=1)
_PAGE = 6


def runs_of(rng: random.Random, now: datetime, days: int) -> list[dict[str, object]]:
    """All runs of `days` up to `now`, in the order of their starts, as rows of maintenance.runs without ids."""
    story = Story(now, days)
    found = [run for job in JOBS.values() for run in _scheduled(rng, story, job)]
    found += _by_hand(rng, story)
    return sorted(found, key=lambda run: (str(run["started_at"]), str(run["job"])))


def _scheduled(rng: random.Random, story: Story, job: Job) -> Iterator[dict[str, object]]:
    slot = job.next_firing(story.since)
    while slot < story.now - timedelta(minutes=30):
        at = slot + timedelta(seconds=rng.uniform(1, 9))
        attempts = _ATTEMPTS[job.name](rng, story, slot)
        for attempt, following in zip(attempts, [*attempts[1:], None], strict=True):
            is_report = slot < story.enforced_at
            lasted = timedelta(seconds=attempt.seconds)
            again = at + lasted + timedelta(seconds=rng.uniform(60, 240))
            # A lost run is closed by the one that takes over.
            ended = again if attempt.status == "lost" and following else at + lasted
            yield _row(job, attempt, at, ended, slot=None if is_report else slot, by_report=is_report)
            at = again
        slot = job.next_firing(slot)


def _row(
    job: Job,
    attempt: Attempt,
    started: datetime,
    ended: datetime | None,
    *,
    slot: datetime | None = None,
    trigger: str = "schedule",
    dry_run: bool = False,
    by_report: bool = False,
) -> dict[str, object]:
    counts = {**attempt.counts, "report_mode": 1} if by_report else dict(attempt.counts)
    return {
        "job": job.name,
        "shard": 0,
        "slot": slot,
        "step": 0,
        "trigger": trigger,
        "status": attempt.status,
        "dry_run": dry_run or by_report,
        "started_at": started,
        "finished_at": ended,
        "deadline_at": started + timedelta(seconds=job.timeout_seconds - _STOP_BEFORE_SECONDS),
        "counts": counts,
        "message": f"Dry run: {attempt.message}" if by_report else attempt.message,
        "error_type": attempt.error_type,
        "error_id": attempt.error_id,
        "revision": None if trigger == "cli" else f"{job.name.replace('_', '-')}-00007-qax",
    }


def _completed(job: Job, rng: random.Random, message: str, **values: int) -> Attempt:
    # Longer with more to do, as it is with the real ones.
    seconds = 2.0 + rng.uniform(0, 4) + values.get(job.counts[0], 0) / 12
    return Attempt("completed", message, figures(job, **values), seconds)


def _period_attempts(rng: random.Random, story: Story, slot: datetime) -> list[Attempt]:
    stale = 2 + story.days_before(slot) % 3
    if slot.day == 1 and slot >= story.enforced_at:
        first, left = 6_180 + rng.randrange(400), 1_240 + rng.randrange(90)
        stopped = Attempt(
            "incomplete",
            f"Period reset stopped after {first} free users: time ran out, and {left} more wait",
            figures(_PERIOD, updated_count=first, counters_created=first, due_count=left, stale_paid_count=stale),
            1_650.0,
        )
        rest = {"updated_count": left, "counters_created": left - 3, "due_count": 0, "stale_paid_count": stale}
        return [stopped, _completed(_PERIOD, rng, f"Period reset completed for {first + left} free users", **rest)]
    due = max(1, round(rng.gauss(14, 6)))
    told = f"Period reset completed for {due} free user{'' if due == 1 else 's'}"
    late = rng.choice((0, 0, 0, 0, 1, 2))
    return [
        _completed(_PERIOD, rng, told, updated_count=due, counters_created=due, due_count=late, stale_paid_count=stale)
    ]


def _stripe_attempts(rng: random.Random, story: Story, slot: datetime) -> list[Attempt]:
    if slot < story.outage_from or slot >= story.outage_until + timedelta(hours=4):
        return [_stripe_run(rng, story, slot, sent=story.busy(slot, rng), waiting=rng.choice((0, 0, 1, 2, 4, 7)))]
    hours = round((slot - story.outage_from) / timedelta(hours=1))
    if story.stripe_paused_from <= slot < story.stripe_paused_until:
        until = format_rfc3339(story.stripe_paused_until)
        return [Attempt("paused", f"stripe_reconcile is paused until {until} by {OPERATORS[0]}: {PAUSED_FOR_STRIPE}")]
    if slot >= story.outage_until:
        left = 0 if slot >= story.outage_until + timedelta(hours=2) else 184
        return [_stripe_run(rng, story, slot, sent=190 + rng.randrange(40), waiting=left, minutes=60 * hours)]
    if hours < 2:
        why = "Stripe answered 503 5 times in a row (upstream connect error). Try again."
        down = Attempt("unavailable", why, counted(_STRIPE), 41.0, error_type="Unavailable")
        return [down, down, down]
    return [_stripe_run(rng, story, slot, sent=3, waiting=55 * hours, minutes=60 * hours)]


def _stripe_run(
    rng: random.Random, story: Story, slot: datetime, *, sent: int, waiting: int, minutes: int | None = None
) -> Attempt:
    """A run that Stripe answered. `minutes` is the age of the oldest event that waits, if it is no usual one."""
    dead, blocked, drift = story.dead_letters(slot), story.blocked(slot), story.open_drift(slot)
    oldest = 0 if not waiting else rng.randrange(12, 55) if minutes is None else minutes
    in_doubt = 38 if waiting > 50 else rng.choice((0, 0, 0, 1))
    values = {
        "success_count": sent,
        "success_pages": sent * _PAGE + rng.randrange(9),
        "retry_count": in_doubt,
        "retry_pages": in_doubt * _PAGE,
        "zero_pages_count": rng.choice((0, 0, 1)),
        "free_count": sent // 3,
        "free_pages": sent // 3 * 2,
        "not_billable_count": sent // 3,
        "not_billable_pages": sent // 3 * 2,
        "verified_count": max(0, sent - rng.randrange(3)),
        "drift_count": rng.choice((0, 0, 0, 0, 1)),
        "waiting_count": waiting,
        "waiting_pages": waiting * _PAGE,
        "oldest_waiting_minutes": oldest,
        "in_doubt_count": in_doubt,
        "in_doubt_pages": in_doubt * _PAGE,
        "blocked_count": blocked,
        "blocked_pages": blocked * _PAGE,
        "dead_letter_count": dead,
        "dead_letter_pages": dead * _PAGE,
        "unresolved_drift_count": drift,
    }
    told = f"Stripe has {sent} more events; {in_doubt + sent} sent"
    if waiting > 50:
        why = f"Stripe reconcile stopped: {told}; time ran out, and {waiting} more wait"
        return Attempt("incomplete", why, figures(_STRIPE, **values), 1_650.0)
    return _completed(_STRIPE, rng, f"Stripe reconcile completed: {told}", **values)


def _usage_attempts(rng: random.Random, story: Story, slot: datetime) -> list[Attempt]:
    gone = 220 + rng.randrange(500)
    told = f"Usage counter cleanup deleted {gone} counters"
    done = _completed(
        _USAGE, rng, told, deleted_count=gone, runs_pruned=112, sends_pruned=30 + gone // 3, outbox_pruned=410
    )
    if story.is_first(_USAGE, slot):
        error_id = f"{rng.getrandbits(128):032x}"
        why = (
            "usage_counter_cleanup failed for a reason that nobody foresaw. "
            f"The log has the details under error id {error_id}."
        )
        return [Attempt("failed", why, counted(_USAGE), 1.4, "KeyError", error_id), done]
    return [done]


def _erasing_run(rng: random.Random, job: Job, title: str, runs: int, *, parents: bool) -> Attempt:
    objects = runs * 2 + rng.randrange(runs + 1)
    values = {
        "jobs_cleaned": runs,
        "files_rehomed": rng.choice((0, 0, 0, 1, 2)),
        "objects_deleted": objects,
        "objects_absent": rng.randrange(3),
        "bytes_deleted": objects * rng.randrange(700_000, 3_400_000),
        "due_count": rng.choice((0, 0, 1)),
        "held": 2,
        "waiting_on_draft": rng.choice((0, 1, 1)),
        "open_objects": 6 + rng.randrange(4),
        "kept_objects": 2,
        "oldest_open_minutes": 60 * rng.randrange(3, 20),
    }
    if parents:
        values["parents_deleted"] = runs * 2 // 3
    return _completed(job, rng, f"{title} erased {runs} run{'' if runs == 1 else 's'}", **values)


def _abandoned_attempts(rng: random.Random, story: Story, slot: datetime) -> list[Attempt]:
    done = _erasing_run(rng, _ABANDONED, "Abandoned cleanup", 3 + rng.randrange(10), parents=True)
    if story.days_before(slot) == story.lost_days:
        lost = Attempt("lost", "Ended without a word; the next run took over.", counted(_ABANDONED), 1_710.0)
        return [lost, done]
    return [done]


def _opt_out_attempts(rng: random.Random, story: Story, slot: datetime) -> list[Attempt]:
    if slot >= story.paused_from:
        until = format_rfc3339(story.paused_until)
        return [Attempt("paused", f"opt_out_cleanup is paused until {until} by {OPERATORS[1]}: {story.paused_why}")]
    return [_erasing_run(rng, _OPT_OUT, "Opt-out cleanup", 14 + rng.randrange(12), parents=False)]


def _artifact_run(rng: random.Random, zips: int, orphans: int = 0) -> Attempt:
    conversions, uploads = zips * 2, zips // 2
    cleaned = zips + conversions + uploads + orphans
    return _completed(
        _ARTIFACT,
        rng,
        f"Artifact cleanup deleted {cleaned} objects",
        artifacts_cleaned=cleaned,
        zips_cleaned=zips,
        conversions_cleaned=conversions,
        temp_uploads_cleaned=uploads,
        orphans_cleaned=orphans,
        objects_deleted=cleaned,
        objects_absent=rng.randrange(4),
        bytes_deleted=zips * rng.randrange(18_000_000, 26_000_000) + conversions * 900_000,
        listed_count=41_000 + rng.randrange(900),
        held=1,
        open_objects=4 + rng.randrange(5),
        kept_objects=1,
        oldest_open_minutes=60 * rng.randrange(4, 26),
    )


def _artifact_attempts(rng: random.Random, story: Story, slot: datetime) -> list[Attempt]:
    ago = story.days_before(slot)
    if ago == story.refused_days:
        why = (
            "Refused: 1204 of 41877 objects would be deleted, and at most 837 may go in one run. Nothing was deleted. "
            "Check that the database, the bucket, the clock and the retention settings are the right ones; if so, run "
            "`python -m ops run artifact --allow-deletes N --reason WHY` with a large enough N."
        )
        return [Attempt("refused", why, counted(_ARTIFACT), 22.0, error_type="Refused")] * (_ARTIFACT.retries + 1)
    if ago == story.misconfigured_days:
        why = (
            "The service account may not use storage.objects.delete on the bucket documents. Grant it a role that has "
            "storage.objects.list, storage.objects.delete and storage.buckets.get there. It need not read objects."
        )
        wrong = Attempt("misconfigured", why, counted(_ARTIFACT), 3.0, error_type="Misconfigured")
        return [wrong, wrong, _artifact_run(rng, 31)]
    return [_artifact_run(rng, 12 + rng.randrange(24) + (20 if slot.weekday() == 0 else 0))]


_ATTEMPTS: dict[str, Callable[[random.Random, Story, datetime], list[Attempt]]] = {
    _PERIOD.name: _period_attempts,
    _STRIPE.name: _stripe_attempts,
    _USAGE.name: _usage_attempts,
    _ABANDONED.name: _abandoned_attempts,
    _ARTIFACT.name: _artifact_attempts,
    _OPT_OUT.name: _opt_out_attempts,
}


def _by_hand(rng: random.Random, story: Story) -> Iterator[dict[str, object]]:
    def run(job: Job, attempt: Attempt, ago: timedelta, trigger: str, *, dry_run: bool = False) -> dict[str, object]:
        at = story.now - ago
        return _row(job, attempt, at, at + timedelta(seconds=attempt.seconds), trigger=trigger, dry_run=dry_run)

    for job, days in ((_ARTIFACT, 1.3), (_ABANDONED, 4.4), (_OPT_OUT, 6.2), (_USAGE, 9.7), (_PERIOD, 11.6)):
        told = f"Dry run: {job.name.replace('_', ' ')} would take 17"
        dry = _completed(job, rng, told, **{job.counts[0]: 17})
        yield run(job, dry, days * _DAY, "cli", dry_run=True)
    allowed = (story.refused_days - 0.4) * _DAY
    yield run(_ARTIFACT, _artifact_run(rng, 24, orphans=1_144), allowed, "cli")
    limited = _completed(
        _ABANDONED, rng, "Abandoned cleanup erased 5 runs (limit reached)", jobs_cleaned=5, due_count=9
    )
    limited.counts["limit"] = 5
    yield run(_ABANDONED, limited, 8.35 * _DAY, "manual")
    fenced = Attempt(
        "fenced",
        "A newer run of stripe_reconcile took over; this one stopped.",
        counted(_STRIPE, success_count=4, success_pages=21),
        75.0,
        error_type="Fenced",
    )
    yield run(_STRIPE, fenced, 6.55 * _DAY, "manual")
    took_over = _stripe_run(rng, story, story.now - 6.549 * _DAY, sent=9, waiting=0)
    yield run(_STRIPE, took_over, 6.549 * _DAY, "cli")
    erased = _erasing_run(rng, ON_REQUEST, "Erasure on request", 6, parents=True)
    would = replace(erased, message="Dry run: erasure on request would erase 6 runs")
    yield run(ON_REQUEST, would, story.erased_on_request + timedelta(minutes=11), "cli", dry_run=True)
    yield run(ON_REQUEST, erased, story.erased_on_request, "cli")
    at_work = Attempt(
        "running", None, counted(_ARTIFACT, artifacts_cleaned=37, objects_deleted=37, bytes_deleted=91_000_000)
    )
    yield _row(_ARTIFACT, at_work, story.now - timedelta(minutes=4), None, trigger="cli")
