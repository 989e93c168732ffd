"""What the statuses and figures are called on the pages, what each status means, and what one does about it."""

from collections.abc import Mapping
from dataclasses import dataclass

# The command line says them too.
from ops.waiting_words import duration as duration
from ops.waiting_words import figure as figure
from ops.waiting_words import phrases as phrases
from ops.waiting_words import size as size

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
        "Nothing, if it came from a firing: the firing's next step or attempt goes on from there. What was started by "
        "hand is not tried again: give the same command once more. If it happens every day, look at what holds the "
        "rows, or at why there is so much to do.",
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
        "`python -m ops run JOB --allow-deletes N --reason WHY`. If not, find out what changed in the data.",
    ),
    "unavailable": Meaning(
        "warn",
        "PostgreSQL, Stripe or the bucket did not answer; the message says which.",
        "Nothing, if it came from a firing and was once: the firing has another attempt. What was started by hand is "
        "not tried again: give the same command once more. If it lasts, see whether that service is down: "
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
