"""`python -m benchmarks`: measure, and print what was measured beside its target. Nothing fails for being slow."""

from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Console

from benchmarks.arena import Arena
from benchmarks.cold_start import measure_cold_starts
from benchmarks.counters import measure_counters
from benchmarks.erasure import measure_erasure
from benchmarks.figures import Figure, show, write_json
from benchmarks.large_runs import LargeSizes, measure_large_runs
from benchmarks.nothing_due import measure_nothing_due
from benchmarks.objects import measure_objects
from benchmarks.period_reset import Sizes, measure_memory, measure_reset
from benchmarks.starting import measure_starting
from benchmarks.stripe_evidence import measure_evidence
from benchmarks.stripe_marking import measure_marking
from benchmarks.stripe_memory import measure_stripe_memory
from benchmarks.stripe_sending import measure_sending
from benchmarks.sweep import measure_sweep
from benchmarks.waiting import measure_waiting
from devstack.stack import Stack, terminated_cleanly

PARTS = (
    *("starting", "cold-start", "nothing-due", "memory", "large-runs", "period-reset", "counters"),
    *("erasure", "objects", "sweep"),
    *("stripe-sending", "stripe-marking", "stripe-memory", "stripe-evidence"),
    "waiting",
)

# Into a file or a pipe nobody tells how wide it is.
_PIPED_WIDTH = 130


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(PARTS))
@click.option("--accounts", default=1_000_000, show_default=True, help="Due accounts.")
@click.option("--paid", default=100_000, show_default=True, help="Paid accounts beside them.")
@click.option("--starts", default=9, show_default=True, help="Cold starts of each function.")
@click.option("--orm-accounts", default=10_000, show_default=True, help="Accounts that the ORM loop treats.")
@click.option("--rounds", default=3, show_default=True, help="How often each way runs; medians are shown.")
@click.option("--counters", default=5_000_000, show_default=True, help="Usage counters, two fifths of them old.")
@click.option("--runs", default=200_000, show_default=True, help="Runs of erasure, a quarter of them due.")
@click.option("--objects", default=3_000, show_default=True, help="Deletes that objects makes each way.")
@click.option("--listed", default=1_000_000, show_default=True, help="Objects that sweep lists.")
@click.option("--to-send", default=40_000, show_default=True, help="Events that stripe-sending sends.")
@click.option("--sendings", default=1, show_default=True, help="How often it does so; medians are shown.")
@click.option(
    "--backlog",
    default=1_000_000,
    show_default=True,
    help="Events that wait, in stripe- parts and large-runs.",
)
@click.option("--to-prove", default=10_000, show_default=True, help="Events of stripe-evidence.")
@click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures here too."
)
def main(
    parts: tuple[str, ...],
    accounts: int,
    paid: int,
    starts: int,
    orm_accounts: int,
    rounds: int,
    counters: int,
    runs: int,
    objects: int,
    listed: int,
    to_send: int,
    sendings: int,
    backlog: int,
    to_prove: int,
    json_file: Path | None,
) -> None:
    """Measure PARTS (all, if none is named) on servers started for it, with PostgreSQL's own default settings.

    Example: python -m benchmarks period-reset --accounts 100000 --json figures.json
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _PIPED_WIDTH
    sizes = Sizes(accounts, paid, orm_accounts, rounds)
    large = LargeSizes(accounts, backlog, to_send, counters, runs, listed)
    figures: list[Figure] = []
    with terminated_cleanly(), Stack({}) as stack:
        arena = Arena(stack)
        measures: dict[str, Callable[[], list[Figure]]] = {
            "starting": lambda: measure_starting(console),
            "cold-start": lambda: measure_cold_starts(arena, starts, console),
            "nothing-due": lambda: measure_nothing_due(arena, console),
            "memory": lambda: measure_memory(arena, sizes, console),
            "large-runs": lambda: measure_large_runs(arena, large, console),
            "period-reset": lambda: measure_reset(arena, sizes, console),
            "counters": lambda: measure_counters(arena, counters, rounds, console),
            "erasure": lambda: measure_erasure(arena, runs, rounds, console),
            "objects": lambda: measure_objects(arena, objects, rounds, console),
            "sweep": lambda: measure_sweep(arena, listed, console),
            "stripe-sending": lambda: measure_sending(arena, to_send, sendings, console),
            "stripe-marking": lambda: measure_marking(arena, backlog, console),
            "stripe-memory": lambda: measure_stripe_memory(arena, backlog, console),
            "stripe-evidence": lambda: measure_evidence(arena, to_prove, console),
            "waiting": lambda: measure_waiting(arena, console),
        }
        for part in parts or PARTS:
            console.rule(part, align="left")
            figures += measures[part]()
    show(console, figures)
    if json_file is not None:
        options = {"accounts": accounts, "paid": paid, "orm_accounts": orm_accounts, "rounds": rounds, "starts": starts}
        options |= {"counters": counters, "runs": runs, "objects": objects, "listed": listed}
        options |= {"to_send": to_send, "sendings": sendings, "backlog": backlog, "to_prove": to_prove}
        write_json(json_file, figures, options)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
