"""What the statuses and figures are called on the pages, what each status means, and what one does about it."""

from collections.abc import Mapping
from dataclasses import dataclass

from ops.shell import cell

NEVER = "never ran"


@dataclass(frozen=True)
class Meaning:
    """A status: how it looks (its tone is a colour, its icon a shape), what it means, and what to do."""

    tone: str
    means: str
    do: str


_NOTHING = "Nothing."
_LOOK = "Look at the log lines of this run."
MEANINGS: Mapping[str, Meaning] = {
    "completed": Meaning("good", "It did all there was to do.", _NOTHING),
    "partly": Meaning(
        "warn",
        "It came to its end, but single items could not be done. Each is logged with its reason.",
        f"{_LOOK} The next run tries those items again.",
    ),
    "running": Meaning(
        "busy",
        "It is at work. Its counts grow with each batch.",
        "Wait. It ends before its deadline; if its process died, the next run closes it as lost.",
    ),
    "incomplete": Meaning(
        "warn",
        "Its time ran out, or rows stayed locked. What is done is done.",
        "Nothing: Cloud Scheduler tries again, and the next attempt goes on from there. If it happens every day, look "
        "at what holds the rows, or at why there is so much to do.",
    ),
    "failed": Meaning(
        "bad",
        "Something happened that nobody foresaw. What was committed before it stays.",
        "Look for the error id in the log: the text is there and nowhere else. Then run the job once more.",
    ),
    "refused": Meaning(
        "bad",
        "It would have deleted more than one run may, so it deleted nothing.",
        "Look at both numbers in the message. If they are right, let one run delete so many: "
        "`python -m ops run JOB --allow-deletes N`. If not, find out what changed in the data.",
    ),
    "unavailable": Meaning(
        "warn",
        "PostgreSQL, Stripe or the bucket did not answer; the message says which.",
        "Nothing, if it was once: Cloud Scheduler tries again. If it lasts, see whether that service is down: "
        "`python -m ops doctor`.",
    ),
    "misconfigured": Meaning(
        "bad",
        "A setting, a right or the schema is wrong; the message says which, and what it should look like.",
        "Mend that. No later attempt succeeds by itself. `python -m ops doctor` looks at all of it at once.",
    ),
    "fenced": Meaning(
        "quiet",
        "A newer run of the same job took over from this one, which then wrote no more.",
        "Nothing: the newer run goes on. If it happens often, see why runs lose their lock: is Redis well?",
    ),
    "lost": Meaning(
        "warn",
        "It ended without a word: its process died or was stopped. A newer run closed it.",
        f"Nothing for the data: each batch is whole or was not done. {_LOOK} If it happens again, look for want of "
        "memory.",
    ),
    "paused": Meaning(
        "paused",
        "An operator had paused the job; it was not run.",
        "Nothing, if the pause is meant. `python -m ops resume JOB` ends it.",
    ),
    NEVER: Meaning(
        "quiet",
        "This job has not run on this database yet.",
        "Wait for its next firing, or run it: `python -m ops run JOB`.",
    ),
}
# What else has a colour: the states of what is on its way to Stripe, or out of the bucket.
TONES: Mapping[str, str] = {
    **{status: meaning.tone for status, meaning in MEANINGS.items()},
    "rejected": "bad",
    "expired": "warn",
    "held": "paused",
    "pending": "quiet",
}
STATUSES = tuple(status for status in MEANINGS if status not in ("partly", NEVER))
# What waits, in phrases: a figure, what it counts (one, several), and figures that belong to it.
_PHRASES = (
    ("due_count", "due", "due", ()),
    ("stale_paid_count", "paid account past its period", "paid accounts past their period", ()),
    ("waiting_count", "event unreported", "events unreported", ("waiting_pages", "oldest_waiting_minutes")),
    ("in_doubt_count", "event in doubt", "events in doubt", ("in_doubt_pages",)),
    ("blocked_count", "event blocked", "events blocked", ("blocked_pages",)),
    ("dead_letter_count", "dead letter", "dead letters", ("dead_letter_pages",)),
    ("misdated_count", "event with an impossible date", "events with an impossible date", ()),
    ("unresolved_drift_count", "difference with Stripe", "differences with Stripe", ()),
    ("held", "held", "held", ()),
    ("waiting_on_draft", "waits for a draft", "wait for a draft", ()),
    ("open_objects", "object to leave the bucket", "objects to leave the bucket", ("oldest_open_minutes",)),
    ("kept_objects", "object that something keeps", "objects that something keeps", ()),
)
# Marks that the runner puts beside the counts.
FLAGS = {"report_mode": "in report mode", "limit": "limited", "all_failed": "every item failed"}


def shown_status(status: str | None, counts: Mapping[str, object]) -> str:
    """The status as it is shown: a completed run that could not do all of its items is no plain success."""
    if status is None:
        return NEVER
    return "partly" if status == "completed" and counts.get("failed_count") else status


def spoken(status: str) -> str:
    """A status as a word or two."""
    return "completed, items failed" if status == "partly" else status


def phrases(waiting: Mapping[str, object]) -> list[tuple[str, str, str]]:
    """What waits, without what is zero: each as a figure, what it counts, and what else there is to say of it."""
    told, said = set(), []
    for name, one, many, beside in _PHRASES:
        told |= {name, *beside}
        if count := waiting.get(name):
            more = ", ".join(_beside(each, waiting[each]) for each in beside if waiting.get(each))
            said.append((figure(name, count), one if count == 1 else many, more))
    others = [(name, value) for name, value in waiting.items() if value and name not in told]
    return said + [(figure(name, value), name.removesuffix("_count").replace("_", " "), "") for name, value in others]


def _beside(name: str, value: object) -> str:
    if name.endswith("_minutes"):
        return f"oldest {figure(name, value)}"
    return f"{figure(name, value)} {'page' if value == 1 else 'pages'}"


def figure(name: str, value: object) -> str:
    """A figure as text, in its unit."""
    if not isinstance(value, int) or isinstance(value, bool):
        return cell(value)
    if name.endswith("_minutes"):
        return duration(value * 60)
    return size(value) if name.startswith("bytes") else f"{value:,}"


def duration(seconds: float) -> str:
    """A length of time in its two largest units."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    days, hours_left = divmod(hours, 24)
    if days:
        return f"{days} d {hours_left} h" if hours_left else f"{days} d"
    if hours:
        return f"{hours} h {minutes_left} min" if minutes_left else f"{hours} h"
    return f"{minutes} min {rest} s" if rest else f"{minutes} min"


def size(count: float) -> str:
    """So many bytes, in the unit that suits."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"
