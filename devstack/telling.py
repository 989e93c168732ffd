"""How the demo and the dev stack speak and end: steps as they go on, errors as a sentence, a closing left in peace."""

from __future__ import annotations

import contextlib
import http.client
import io
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping

import click
import pg8000.exceptions
from rich.console import Console
from rich.markup import escape

from devstack.guardian import StartError
from shared.errors import MaintenanceError

INTERRUPTED = 128 + signal.SIGINT


class StepFailed(Exception):
    """A step did not end as it should have. The message is a clear sentence."""


class Teller:
    """Writes to standard output: a spinner while a step lasts on a terminal, plain lines anywhere else."""

    def __init__(self) -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A terminal that knows no ✓ gets a question mark, not a traceback.
            sys.stdout.reconfigure(errors="replace")
        self.console = Console(highlight=False)

    @contextlib.contextmanager
    def step(self, doing: str, done: str) -> Iterator[None]:
        """Say what is being done while the block lasts, and what was done, with its seconds, after it."""
        started = time.monotonic()
        if self.console.is_terminal:
            with self.console.status(f"{escape(doing)} …"):
                yield
        else:
            self.console.print(f"  {escape(doing)} …")
            yield
        self.right(f"{escape(done)} [dim]({time.monotonic() - started:.1f} s)[/]")

    def chapter(self, title: str, why: str = "") -> None:
        """Begin a part with its title, and say what it shows and why."""
        self.console.print(f"\n[bold cyan]{title}[/]")
        if why:
            self.console.print(f"[dim]{why}[/]")

    def right(self, markup: str) -> None:
        """Say that something is as it should be."""
        self.console.print(f"[green]✓[/] {markup}")


def tell_exports(settings: Mapping[str, str]) -> None:
    """Write the lines that export these settings in another terminal. Not by rich, which would break long ones."""
    for name, value in settings.items():
        click.echo(f"export {name}={shlex.quote(value)}")


def exit_code(work: Callable[[], None]) -> int:
    """Do the work and give the process's exit code. What was expected to go wrong is told in a sentence."""
    errors = Console(stderr=True, highlight=False)
    try:
        work()
    except KeyboardInterrupt:
        errors.print("Stopped. Nothing is left running.")
        return INTERRUPTED
    except (StepFailed, StartError, MaintenanceError) as error:
        errors.print(f"[bold red]Failed:[/] {escape(str(error))}")
        return 1
    except (OSError, pg8000.exceptions.Error, http.client.HTTPException) as error:
        errors.print(f"[bold red]Failed:[/] {escape(f'{type(error).__name__}: {error}')}")
        return 1
    return 0


@contextlib.contextmanager
def closed_calmly() -> Iterator[contextlib.ExitStack]:
    """Give an exit stack whose closing neither Ctrl-C nor SIGTERM interrupts: they count when it is closed."""
    with contextlib.ExitStack() as stack:
        try:
            yield stack
        finally:
            with _signals_later():
                stack.close()


@contextlib.contextmanager
def _signals_later() -> Iterator[None]:
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _frame: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])
