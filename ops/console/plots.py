"""The plots: from the counts that each run keeps, with a summary and a table that say the same in words.

The days are cut into steps, at most 360 of them, so that a page is as quick with 100,000 runs as with a hundred: of
a step there is the longest run, the sum of what was done, and the most of what waited.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from functions.registry import JOBS
from ops.console.queries import Reader
from ops.console.words import duration, size
from shared.job import Job

DAYS = (7, 30, 90)
_HOUR = 3600
# Stripe's job runs every two hours: over a month, a step is one run.
_STEP = {7: 2 * _HOUR, 30: 2 * _HOUR, 90: 6 * _HOUR}
_SECONDS = "seconds"
_BYTES = "bytes_deleted"
_GAUGES = ("waiting_count", "oldest_waiting_minutes", "due_count", "open_objects")


@dataclass(frozen=True)
class Plot:
    """One plot: what it shows, in a sentence, and its points; `unit` chooses how the axis is written."""

    key: str
    heading: str
    summary: str
    unit: str
    form: str
    points: Sequence[tuple[int, float]]
    say: Callable[[float], str]

    @property
    def data(self) -> Mapping[str, object]:
        """What the script draws: numbers, and words of ours alone."""
        return {
            "label": self.heading,
            "unit": self.unit,
            "form": self.form,
            "at": [at for at, _ in self.points],
            "values": [value for _, value in self.points],
        }

    @property
    def rows(self) -> Sequence[tuple[datetime, str]]:
        """The same as a table."""
        return [(datetime.fromtimestamp(at, UTC), self.say(value)) for at, value in self.points]


@dataclass(frozen=True)
class Group:
    """Plots that belong together."""

    key: str
    heading: str
    about: str
    plots: Sequence[Plot]


def plots(reader: Reader, days: int, job: str | None) -> Sequence[Group]:
    """All plots over the last days; those that are made for each job, for one alone if it is named."""
    step = _STEP[days]
    sums = [_BYTES, *(each.counts[0] for each in JOBS.values())]
    found: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for row in reader.over_time(days, step, _GAUGES, sums):
        found.setdefault((row["job"], row["figure"]), []).append((row["at"], row["value"]))
    jobs = [JOBS[job]] if job else list(JOBS.values())

    def of(name: str, figure: str) -> Sequence[tuple[int, float]]:
        return found.get((name, figure), [])

    a_step = f"{step // _HOUR} hours"
    waits = [
        *_when(job, "stripe_reconcile", lambda: [
            _plot("unreported", "Usage not reported yet", "count", "line", of("stripe_reconcile", "waiting_count")),
            _plot("oldest", "Age of the oldest", "duration", "line",
                  [(at, value * 60) for at, value in of("stripe_reconcile", "oldest_waiting_minutes")]),
        ]),
        *_when(job, "period_reset", lambda: [
            _plot("moved", "Accounts moved to their new month", "count", "bars", of("period_reset", "updated_count")),
            _plot("due", "Accounts still due after a run", "count", "line", of("period_reset", "due_count")),
        ]),
    ]  # fmt: skip
    cleanups = [each for each in jobs if _BYTES in each.counts or "open_objects" in each.gauges]
    bucket = []
    if cleanups:
        bucket = [
            _plot("outbox", "Objects that must leave the bucket", "count", "line",
                  _merged([of(each.name, "open_objects") for each in cleanups], max)),
            _plot("bytes", "Bytes deleted", "size", "bars",
                  _merged([of(each.name, _BYTES) for each in cleanups], lambda one, other: one + other)),
        ]  # fmt: skip
    groups = [
        Group("waits", "What waits", f"As the runs found it; of each {a_step} the most.", waits),
        Group("bucket", "The bucket", f"Open after a run, the most in each {a_step}; and deleted in each.", bucket),
        Group("duration", "How long runs took", f"Of each {a_step} the longest run.",
              [_plot(f"took-{each.cli}", each.name, "duration", "line", of(each.name, _SECONDS)) for each in jobs]),
        Group("items", "What runs did", f"Items of all runs in each {a_step}.", [_items(each, of) for each in jobs]),
    ]  # fmt: skip
    return [group for group in groups if group.plots]


def _items(job: Job, of: Callable[[str, str], Sequence[tuple[int, float]]]) -> Plot:
    main = job.counts[0]
    return _plot(f"did-{job.cli}", f"{job.name}: {main.replace('_', ' ')}", "count", "bars", of(job.name, main))


def _when(chosen: str | None, job: str, make: Callable[[], Sequence[Plot]]) -> Sequence[Plot]:
    return make() if chosen in (None, job) else []


def _merged(
    lines: Sequence[Sequence[tuple[int, float]]], of_two: Callable[[float, float], float]
) -> Sequence[tuple[int, float]]:
    merged: dict[int, float] = {}
    for at, value in (point for line in lines for point in line):
        merged[at] = of_two(merged[at], value) if at in merged else value
    return sorted(merged.items())


def _plot(key: str, heading: str, unit: str, form: str, points: Sequence[tuple[int, float]]) -> Plot:
    say = {"duration": duration, "size": size, "count": lambda value: f"{value:,.0f}"}[unit]
    return Plot(key, heading, _summed_up(points, say, form), unit, form, points, say)


def _summed_up(points: Sequence[tuple[int, float]], say: Callable[[float], str], form: str) -> str:
    if not points:
        return "No run in this time has this figure."
    values = [value for _, value in points]
    at, highest = max(points, key=lambda point: point[1])
    when = f"{datetime.fromtimestamp(at, UTC):%d %b %H:%M}"
    if highest == 0:
        return "0 all the time."
    if form == "bars":
        return f"{say(sum(values))} in all. The most: {say(highest)}, {when}."
    return f"Newest: {say(values[-1])}. The highest: {say(highest)}, {when}."
