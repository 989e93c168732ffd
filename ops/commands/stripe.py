"""Usage on its way to Stripe: what waits, what is in the way, and the two things that an operator may do about it.

Dangers, and what holds them:

- Billed twice. Only what Stripe has refused is decided anew: of that, Stripe itself says that it does not have it. It
  goes the whole way again, past Stripe's sums where it is older than identifiers last. What is in doubt is left to the
  runs, which look for it at Stripe.
- A run at the same time. What changes something holds the job's fence, so that no transaction of a run is under way;
  what is being sent is left alone.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click

from functions.registry import JOBS
from ops.commands.stripe_audit import add_audit, period_of
from ops.commands.words import Words
from ops.layout import wrapped
from ops.shell import Column, NotThere, Shell, command, printable
from shared.errors import LockLost, Unavailable
from shared.postgres import Row, Transaction
from shared.sql import load_statements

_STATEMENTS = load_statements(Path(__file__).with_name("stripe.sql"))
_JOB = JOBS["stripe_reconcile"]
# Longer than a batch of the job takes; what has to wait longer is told to come back.
_PATIENCE_MS = 5_000
_HEADING = f"{'EVENT':36}  {'STATE':9}  AGE, PAGES, WHOSE: WHY"
_DRIFT = (
    Column("CUSTOMER", "customer"),
    Column("PERIOD", "period"),
    Column("OUR PAGES", "ours", right=True),
    Column("STRIPE'S PAGES", "theirs", right=True),
    Column("SINCE", "since"),
    Column("WHY", "why"),
)
_WAIVABLE = ("rejected", "expired", "blocked", "in_doubt")
# What a run does by itself with an event in this state.
_GOES_ON = {
    "blocked": "each run decides about it anew",
    "pending": "the next run sends it",
    "sending": "it is being sent, or was when a run ended; the next run finds out",
    "in_doubt": "each run sends it again or looks for it in Stripe's sums, whichever cannot bill it twice",
}
# What lets the next run decide about an event that is blocked, by why it is.
_MEND = {
    "no_customer": "give the account its customer, or waive it",
    "no_account": "give the user an account, or waive it",
    "no_such_customer": "correct the account's customer, or waive it",
    "was_paid": "bill it by hand if the user is to pay, and waive it",
    "unclear": "see the customer's subscriptions at Stripe; each run asks again",
    "retry": "the next run decides anew",
}
# For any other reason.
_WAIVE = "see `python -m ops stripe waive --help`"
_limit = click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="At most so many.")
_reason = click.option("--reason", type=Words(), required=True, help="Why, for whoever looks at it later.")
_events = click.argument("events", metavar="ID...", nargs=-1, required=True, type=click.UUID)


def add_to(group: click.Group) -> None:
    """Add these commands."""

    @group.group("stripe", help="See what waits for Stripe, and decide about what only a person can decide.")
    def stripe() -> None:
        """Group the commands."""

    _add_looking(stripe)
    _add_changing(stripe)
    add_audit(stripe)


def _add_looking(stripe: click.Group) -> None:
    @command(stripe, "backlog")
    @_limit
    def backlog(shell: Shell, limit: int) -> None:
        """Show the usage that is not reported yet, the oldest first, with its age and where it is on its way.

        Example: python -m ops stripe backlog --limit 10
        """
        _list(
            shell,
            "backlog",
            limit,
            "Everything is reported: nothing waits.",
            before=shell.now - shell.services.settings.stripe.min_age,
        )

    @command(stripe, "dead-letters")
    @_limit
    def dead_letters(shell: Shell, limit: int) -> None:
        """Show the usage that Stripe refused (rejected), or is too old for it (expired), and why. The oldest first.

        Example: python -m ops stripe dead-letters --json
        """
        _list(shell, "dead_letters", limit, "There are no dead letters.")

    @command(stripe, "drift")
    @click.option("--all", "all_of_it", is_flag=True, help="Show what is resolved, too.")
    @_limit
    def drift(shell: Shell, all_of_it: bool, limit: int) -> None:
        """Show where our pages and Stripe's differ, the latest first. Nothing of it is ever corrected by itself.

        Example: python -m ops stripe drift --all
        """
        with shell.services.database.transaction(read_only=True) as transaction:
            rows = transaction.rows(_STATEMENTS["drift"], all=all_of_it, limit=limit)
        if shell.as_json:
            shell.tell(rows)
            return
        shown = [
            {
                **row,
                "period": period_of(row["period_start"], row["period_end"]),
                "since": f"{row['seen_at']:%Y-%m-%d}",
                "why": "resolved" if row["resolved_at"] else row["reason"].replace("_", " "),
            }
            for row in rows
        ]
        shell.table(shown, _DRIFT, "Our pages and Stripe's do not differ anywhere that is known.")


def _add_changing(stripe: click.Group) -> None:
    @command(stripe, "retry")
    @_events
    @_reason
    def retry(shell: Shell, events: Sequence[object], reason: str) -> None:
        """Let the next run decide anew about events that Stripe refused, after what was wrong is mended. Recorded.

        They go to the customer that the account has then, under a new identifier. All of the named, or none. What is
        blocked or in doubt is tried by every run without this.

        Example: python -m ops stripe retry 0b5c3f1e-6f1c-4a53-9d3c-2f0b9d8c7a61 --reason "customer is restored"
        """

        def fate(row: Row) -> str | None:
            state = row["state"]
            if state in _GOES_ON:
                return f"is {_said(state)} as it was: {_GOES_ON[state]}"
            if state == "rejected":
                _must_be_there(row)
                return None
            raise NotThere(f"{row['event']} {_no_retry(row)} Nothing was changed.")

        _change(shell, "retry", events, reason, fate, "is decided anew by the next run")

    @command(stripe, "waive")
    @_events
    @_reason
    def waive(shell: Shell, events: Sequence[object], reason: str) -> None:
        """Never bill these events: dead letters, blocked ones, or ones in doubt. They stay on record. Recorded.

        All of the named, or none. It cannot be taken back.

        Example: python -m ops stripe waive 0b5c3f1e-6f1c-4a53-9d3c-2f0b9d8c7a61 --reason "billed by hand"
        """

        def fate(row: Row) -> str | None:
            state = row["state"]
            if state == "waived":
                return "is waived already"
            if state not in _WAIVABLE:
                why = "Stripe has it" if state == "accepted" else _GOES_ON[state]
                raise NotThere(
                    f"{row['event']} is {_said(state)}: {why}. Only dead letters and what is blocked or in doubt can "
                    "be waived. Nothing was changed."
                )
            if state == "rejected" and row["is_our_mark"]:
                raise NotThere(_STILL_MARKED.format(**row))
            return None

        _change(shell, "waive", events, reason, fate, "is never billed")


_STILL_MARKED = (
    "{event} is still marked as reported in usage_events, although Stripe refused it. The next run takes the mark "
    "away. Try again after it. Nothing was changed."
)


def _must_be_there(row: Row) -> None:
    """Of a refused event: it can be decided about only while it is there and not reported."""
    if row["is_our_mark"]:
        raise NotThere(_STILL_MARKED.format(**row))
    if not row["is_there"]:
        raise NotThere(
            f"The usage event {row['event']} is gone, so nobody can tell any more whom to bill. Bill its {_pages(row)} "
            "by hand if they are to be billed, and waive it. Nothing was changed."
        )
    if row["is_reported"]:
        raise NotThere(
            f"{row['event']} was reported by the service meanwhile, under a name of its own. Waive it. Nothing was "
            "changed."
        )


def _no_retry(row: Row) -> str:
    if row["state"] == "expired":
        return (
            "cannot be sent any more: Stripe takes no event that is older than 35 days. If its "
            f"{_pages(row)} of {row['customer']} are to be billed, add them to an invoice by hand; then waive it."
        )
    if row["state"] == "waived":
        return "is waived: it is never billed."
    return "is accepted: Stripe has it."


def _change(
    shell: Shell,
    action: str,
    events: Sequence[object],
    reason: str,
    fate: Callable[[Row], str | None],
    done: str,
) -> None:
    """Do something about all of these events or none; `fate` says what becomes of one that needs nothing, or raises."""
    keys = list(dict.fromkeys(str(event) for event in events))
    with shell.changing() as transaction:
        found = {row["event"]: row for row in _held(transaction, keys)}
        missing = [key for key in keys if key not in found]
        if missing:
            raise NotThere(
                f"There is no event {', '.join(missing)} on its way to Stripe. `python -m ops stripe dead-letters` and "
                "`backlog` list what there is. Nothing was changed."
            )
        said = {key: fate(found[key]) for key in keys}
        changed = [key for key in keys if said[key] is None]
        if changed:
            transaction.execute(_STATEMENTS["decide_anew" if action == "retry" else "waive"], events=changed)
            was = [
                {name: found[key][name] for name in ("event", "state", "identifier", "error_code")} for key in changed
            ]
            shell.record(transaction, f"stripe {action}", {"events": was}, reason)
    rows = [
        {"event": key, "was": found[key]["state"], "changed": said[key] is None, "message": said[key] or done}
        for key in keys
    ]
    shell.tell(rows, *(f"{row['event']} {row['message']}." for row in rows))


def _held(transaction: Transaction, keys: Sequence[str]) -> Sequence[Row]:
    """Where the events are, with all runs kept out to the end of the transaction."""
    transaction.limit("lock_timeout", _PATIENCE_MS)
    try:
        transaction.rows(_STATEMENTS["keep_runs_out"], job=_JOB.name)
        return transaction.rows(_STATEMENTS["on_their_way"], events=keys)
    except LockLost as error:
        raise Unavailable("postgres", f"A run of {_JOB.name} is writing just now. Try again.") from error


def _list(shell: Shell, statement: str, limit: int, nothing: str, **parameters: object) -> None:
    """Print events: the id first and whole, because it is to be copied."""
    with shell.services.database.transaction(read_only=True) as transaction:
        # One more than is shown tells whether there are more.
        rows = transaction.rows(_STATEMENTS[statement], now=shell.now, limit=limit + 1, **parameters)
    if shell.as_json:
        shell.tell(rows[:limit])
        return
    if not rows:
        shell.say(nothing)
        return
    shell.say(_HEADING)
    for row in rows[:limit]:
        for line in _lines(row, shutil.get_terminal_size().columns):
            shell.say(line)
    if len(rows) > limit:
        shell.say(f"There are more than these {limit}. --limit shows more.")
    if any(row["state"] == "undecided" for row in rows[:limit]):
        shell.say("undecided: no run has decided yet whether to bill it; the next one does.")


def _lines(row: Row, room: int) -> Iterator[str]:
    """An event: its id and state, and what there is to say of it over as many lines as it takes."""
    begin = f"{row['event']}  {_said(row['state']):9}  "
    first, *others = wrapped(" " * len(begin) + printable(_about(row)), room, "    ")
    if first.startswith(" " * len(begin)):
        yield begin + first[len(begin) :]
    else:
        # No word of it fits beside them.
        yield begin.rstrip()
        yield first
    yield from others


def _about(row: Row) -> str:
    said = [(row["error_code"] or "").replace("_", " "), row["error_message"]]
    if row["state"] == "blocked":
        said.append(_MEND.get(row["error_code"], _WAIVE))
    why = ": ".join(part for part in said if part)
    whose = row["customer"] or f"user {row['user']}"
    about = f"{_age(row['age_minutes'])} old, {_pages(row)} of {whose}"
    return f"{about}: {why}" if why else about


def _said(state: str) -> str:
    return state.replace("_", " ")


def _pages(row: Row) -> str:
    return "1 page" if row["pages"] == 1 else f"{row['pages']} pages"


def _age(minutes: int) -> str:
    hours, rest = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {rest} min" if hours else f"{rest} min"
