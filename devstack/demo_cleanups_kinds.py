"""The kinds of rows and objects that the cleanups meet in the demo, and what must become of each, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from devstack.demo_cleanups_seed import Seeding, Thing

COUNTERS: Final = "usage_counter_cleanup"
ABANDONED: Final = "abandoned_cleanup"
OPT_OUT: Final = "opt_out_cleanup"
ARTIFACTS: Final = "artifact_cleanup"

_COUNTER_USERS, _MONTHS = 150, 20
_KEEP_MONTHS = 13
_SECOND = timedelta(seconds=1)


@dataclass(frozen=True)
class Kind:
    """One kind: what makes a copy of it, why it goes or stays, and whether it would go but for a hold."""

    make: Callable[[Seeding], None]
    why: str
    copies: int = 4
    held: bool = False


# --- counters


def _month(seeding: Seeding, ago: int) -> datetime:
    """The first moment of the calendar month (UTC), so many months ago."""
    years, months = divmod(seeding.now.month - 1 - ago, 12)
    return datetime(seeding.now.year + years, months + 1, 1, tzinfo=UTC)


def _account(seeding: Seeding, current: int) -> None:
    """An account whose period is the calendar month, so many months ago."""
    start = _month(seeding, current)
    seeding.insert(
        "billing_accounts", user_id=seeding.user, plan_code="basic", status="paused", current_period_start=start
    )


def _counters(seeding: Seeding, kind: str, months: Iterable[int], goes: str | None = None) -> None:
    """The user's counters of calendar months, so many months ago."""
    for number in months:
        start, end = _month(seeding, number), _month(seeding, number - 1)
        seeding.insert(
            "usage_counters", user_id=seeding.user, period_start=start, period_end=end - _SECOND, pages_total=7
        )
        seeding.things["usage_counters", f"{seeding.user} {start.isoformat()}"] = Thing(kind, goes)


def _many_months(seeding: Seeding) -> None:
    _account(seeding, 0)
    _counters(seeding, "more than 13 months ago", range(_KEEP_MONTHS + 1, _MONTHS + 1), COUNTERS)
    _counters(seeding, "13 months ago or later", range(_KEEP_MONTHS + 1))


def _old_period(seeding: Seeding) -> None:
    _account(seeding, 15)
    _counters(seeding, "before a period of that age", [16, 17], COUNTERS)
    _counters(seeding, "current period, 15 months", [15])


# --- drafts


def _idle(seeding: Seeding) -> None:
    draft = seeding.run(seeding.job(45, goes=ABANDONED), 45, goes=ABANDONED)
    seeding.file(draft, conversion=True)
    seeding.file(draft)


def _marked(seeding: Seeding) -> None:
    draft = seeding.run(seeding.job(60, goes=ABANDONED), 60, goes=ABANDONED, status="cancelled", persist_data=False)
    seeding.file(draft)


def _beside_a_finished_run(seeding: Seeding) -> None:
    job = seeding.job(45)
    finished = seeding.finished(job, 50)
    seeding.task(finished, seeding.file(finished))
    seeding.file(seeding.run(job, 45, goes=ABANDONED))


def _waits_for_mail(seeding: Seeding) -> None:
    job = seeding.job(100)
    seeding.automation(job)
    seeding.file(seeding.run(job, 100))


def _being_filled(seeding: Seeding) -> None:
    job = seeding.job(45)
    automation = seeding.automation(job)
    draft = seeding.run(job, 45)
    seeding.file(draft)
    seeding.firing(automation, draft, "running")
    seeding.firing(automation, seeding.finished(job, 44), "completed")


def _resumed(seeding: Seeding) -> None:
    draft = seeding.run(seeding.job(90), 90, status="cancelled", persist_data=False, last_active_at=seeding.ago(1))
    seeding.file(draft)


def _held_draft(seeding: Seeding) -> None:
    draft = seeding.run(seeding.job(45), 45)
    seeding.file(draft)
    seeding.hold(draft)


# --- runs of users who opted out


def _over(seeding: Seeding, age: float, *, status: str = "completed", goes: str | None = OPT_OUT) -> None:
    run = seeding.finished(seeding.job(age), age, status, goes=goes, persist_data=False)
    seeding.task(run, seeding.file(run, conversion=True))
    seeding.task(run, seeding.file(run))
    seeding.export(run)


def _automations_latest(seeding: Seeding) -> None:
    job = seeding.job(10)
    automation = seeding.automation(job)
    run = seeding.finished(job, 10, content=OPT_OUT, persist_data=False)
    seeding.firing(automation, run, "completed")
    seeding.task(run, seeding.file(run), seeding.file(run))
    seeding.export(run)
    seeding.export(run, external_id=f"drive-{run.id}")


def _shared_with_an_appended(seeding: Seeding) -> None:
    job = seeding.job(5)
    first = seeding.finished(job, 10, goes=OPT_OUT, persist_data=False)
    shared = seeding.file(first, stays=True, conversion=True)
    seeding.task(first, shared)
    appended = seeding.finished(job, 5, append_from_run_id=first.id)
    seeding.task(appended, shared)
    seeding.change(("source_files", shared), OPT_OUT, "job_run_id", appended.id)
    seeding.change(("job_runs", appended.id), OPT_OUT, "append_from_run_id", None)


def _needed_by_a_draft(seeding: Seeding) -> None:
    job = seeding.job(1)
    first = seeding.finished(job, 10, persist_data=False)
    shared = seeding.file(first)
    seeding.task(first, shared)
    seeding.task(seeding.run(job, 1, append_from_run_id=first.id), shared)


def _held_run(seeding: Seeding) -> None:
    run = seeding.finished(seeding.job(10), 10, persist_data=False)
    seeding.task(run, seeding.file(run))
    seeding.hold(run)


def _to_be_kept(seeding: Seeding) -> None:
    run = seeding.finished(seeding.job(60), 60)
    for _ in range(5):
        seeding.task(run, seeding.file(run))


# --- by-products and orphans


def _unpacked(seeding: Seeding) -> None:
    run = seeding.finished(seeding.job(20), 20)
    name = f"jobs/{run.job_id}/runs/{run.id}/invoices.zip"
    seeding.file(
        run,
        gcs_object_name=name,
        original_filename="invoices.zip",
        file_type="application/zip",
        status="unpacked",
    )
    # The row stays, because the service shows it.
    seeding.put(name, run.age, ARTIFACTS)


def _members(seeding: Seeding) -> None:
    run = seeding.finished(seeding.job(20), 20)
    # Older rows say "unpacked" of members too.
    seeding.task(run, seeding.file(run, status="unpacked"), seeding.file(run))


def _conversion(seeding: Seeding) -> None:
    run = seeding.finished(seeding.job(20), 20)
    seeding.put(f"jobs/{run.id}/conversions/{seeding.file(run)}.pdf", 8, goes=ARTIFACTS)


def _young_conversion(seeding: Seeding) -> None:
    run = seeding.finished(seeding.job(3), 3)
    seeding.put(f"jobs/{run.id}/conversions/{seeding.file(run)}.pdf", 3)


def _held_conversion(seeding: Seeding) -> None:
    run = seeding.finished(seeding.job(20), 20)
    seeding.put(f"jobs/{run.id}/conversions/{seeding.file(run)}.pdf", 8)
    seeding.hold(run)


def _scratch(seeding: Seeding) -> None:
    seeding.put(f"temp_uploads/{seeding.user}/1700000000_scan #1.pdf", 8, goes=ARTIFACTS)


def _orphan(seeding: Seeding) -> None:
    seeding.put(f"jobs/{seeding.user}/runs/{seeding.user}/a.pdf", 15, goes=ARTIFACTS)
    seeding.put(f"imports/{seeding.user}/drive_ü?.pdf", 15, goes=ARTIFACTS)


def _young_orphan(seeding: Seeding) -> None:
    seeding.put(f"jobs/{seeding.new_id()}/b.pdf", 10)


def _foreign(seeding: Seeding) -> None:
    seeding.put(f"backups/{seeding.user}.sql.gz", 400)


KINDS: Final[Mapping[str, Mapping[str, Kind]]] = {
    COUNTERS: {
        "more than 13 months ago": Kind(_many_months, "past their retention", _COUNTER_USERS),
        "13 months ago or later": Kind(lambda _: None, "within it, to the day", 0),
        "before a period of that age": Kind(_old_period, "past their retention", 30),
        "current period, 15 months": Kind(lambda _: None, "decides who is blocked", 0),
    },
    ABANDONED: {
        "idle for 45 days": Kind(_idle, "nobody came back"),
        "marked, idle for 60 days": Kind(_marked, "the service gave it up"),
        "idle, beside a finished run": Kind(_beside_a_finished_run, "alone; job and run stay"),
        "an automation's, 100 days": Kind(_waits_for_mail, "waits for mail"),
        "an automation fills it": Kind(_being_filled, "in use, however old"),
        "marked, resumed yesterday": Kind(_resumed, "its user is back"),
        "idle, held": Kind(_held_draft, "a hold keeps it", held=True),
    },
    OPT_OUT: {
        "completed 10 days ago": Kind(lambda s: _over(s, 10), "7 days of grace are over"),
        "failed 10 days ago": Kind(lambda s: _over(s, 10, status="failed"), "an end like any other"),
        "completed yesterday": Kind(lambda s: _over(s, 1, goes=None), "within the 7 days"),
        "an automation's latest": Kind(_automations_latest, "content only: fields stay"),
        "shared with an appended run": Kind(_shared_with_an_appended, "the file moves to that run"),
        "its file needed by a draft": Kind(_needed_by_a_draft, "waits, whole, for the draft"),
        "completed, held": Kind(_held_run, "a hold keeps it", held=True),
        "completed, to be kept": Kind(_to_be_kept, "its user did not opt out"),
    },
    ARTIFACTS: {
        "unpacked ZIP": Kind(_unpacked, "its members are there"),
        "what was in such a ZIP": Kind(_members, "content"),
        "conversion, 8 days": Kind(_conversion, "can be made again"),
        "conversion, 3 days": Kind(_young_conversion, "within 7 days"),
        "conversion, its run held": Kind(_held_conversion, "a hold keeps it", held=True),
        "upload scratch, 8 days": Kind(_scratch, "a by-product"),
        "of a deleted job, 15 days": Kind(_orphan, "no row names them"),
        "of a deleted job, 10 days": Kind(_young_orphan, "within 14 days"),
        "somebody else's backups": Kind(_foreign, "not the service's at all"),
    },
}


def held_count(job: str) -> int:
    """How many copies there are of what a job would take but for a hold: a run or an object each."""
    return sum(kind.copies for kind in KINDS[job].values() if kind.held)


def seed_all(seeding: Seeding) -> None:
    """Seed every kind of every job."""
    seeding.insert("data_types", id="string", display_name="Text")
    for kinds in KINDS.values():
        for name, kind in kinds.items():
            for copy in range(kind.copies):
                seeding.begin(name, copy)
                kind.make(seeding)
