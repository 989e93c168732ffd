"""What the figures of a job are called, on the pages and on the command line, and how they stand in their units."""

from collections.abc import Mapping

from ops.shell import cell

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


def in_words(waiting: Mapping[str, object] | None) -> str:
    """What waits, as it stands in a cell: `not known` where nobody could look, and a dash where nothing is known to."""
    if waiting is None:
        return "not known"
    said = [f"{number} {what}" + (f" ({beside})" if beside else "") for number, what, beside in phrases(waiting)]
    return ", ".join(said) or "-"


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
