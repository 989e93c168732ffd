"""What the first page says before anything else: what a person must look at, in sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from ops.console.words import TONES, shown_status
from shared.postgres import Row


@dataclass(frozen=True)
class Notice:
    """Something to look at: how bad it is, a sentence, and the page about it with what its address says.

    `do` is what to do about it, where that page does not say it.
    """

    tone: str
    said: str
    page: str
    arguments: Mapping[str, object]
    do: str = ""


@dataclass(frozen=True)
class Summary:
    """All in one sentence, and what there is to look at, the worst first."""

    tone: str
    said: str
    notices: Sequence[Notice]


def summary(jobs: Sequence[Mapping[str, object]], waits: Row) -> Summary:
    """Say how it is."""
    notices = [notice for job in jobs for notice in _of_job(job)]
    notices += [
        Notice(tone, _counted(number, one, many), page, arguments, do)
        for name, tone, one, many, page, arguments, do in _WAITING
        if (number := waits[name] if name in waits else _of_jobs(jobs, name))
    ]
    notices.sort(key=lambda notice: _ORDER.index(notice.tone))
    overdue = sum(bool(job["overdue"]) for job in jobs)
    if overdue:
        said = f"{_counted(overdue, 'one job is', 'jobs are')} overdue."
    elif any(notice.tone == "bad" for notice in notices):
        said = "All jobs are on time, and something needs a person."
    else:
        said = f"All {len(jobs)} jobs are on time."
    return Summary(
        notices[0].tone if notices and notices[0].tone != "paused" else "good", said[0].upper() + said[1:], notices
    )


_ORDER = ("bad", "warn", "paused", "busy", "quiet", "good")
_WAITING: Sequence[tuple[str, str, str, str, str, Mapping[str, str], str]] = (
    ("dead_letters", "bad", "one usage event is a dead letter", "usage events are dead letters", "dead_letters", {},
     ""),
    ("blocked", "warn", "one usage event is blocked", "usage events are blocked", "runs", {"job": "stripe_reconcile"},
     "Is it to be billed? Give each its account or customer, or waive it: `python -m ops stripe backlog` names them."),
    ("stale_paid_count", "warn", "one paid account is more than two days past its period's end",
     "paid accounts are more than two days past their period's end", "runs", {"job": "period_reset"},
     "The service missed Stripe's webhooks for them: let Stripe send those again."),
    ("objects_failed", "warn", "one object could not be deleted from the bucket",
     "objects could not be deleted from the bucket", "outbox", {}, ""),
    ("drift", "warn", "one difference with Stripe is unresolved", "differences with Stripe are unresolved", "drift", {},
     ""),
)  # fmt: skip


def _of_job(job: Mapping[str, object]) -> list[Notice]:
    name = job["job"]
    found = []
    counts = job["counts"]
    status = shown_status(job["status"], counts if isinstance(counts, Mapping) else {})  # type: ignore[arg-type]  # a status
    if job["overdue"]:
        found.append(Notice("bad", f"{name} is overdue", "runs", {"job": name}))
    tone = TONES.get(status, "quiet")
    if job["id"] is not None and tone in ("bad", "warn"):
        said = (
            f"{name}: the newest run is {status}" if status != "partly" else f"{name}: items failed in the newest run"
        )
        found.append(Notice(tone, said, "run", {"run_id": job["id"]}))
    until = job["paused_until"]
    if isinstance(until, datetime):
        found.append(Notice("paused", f"{name} is paused until {until:%Y-%m-%d %H:%M}", "actions", {}))
    return found


def _of_jobs(jobs: Sequence[Mapping[str, object]], figure: str) -> int:
    """A figure of what waits, of all jobs; of those about which nothing is known, none."""
    waiting = [job["waiting"] for job in jobs]
    return sum(each.get(figure, 0) for each in waiting if isinstance(each, Mapping))


def _counted(count: int, one: str, many: str) -> str:
    said = one if count == 1 else f"{count:,} {many}"
    return said[0].upper() + said[1:]
