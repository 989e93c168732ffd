"""What all commands have in common: the settings, the two forms of output, and how a command ends.

Exit codes: 0 done; 1 it was done and the answer is no (a job did not succeed, something is not as it should be); 2 the
command line is wrong; 3 a setting, a right or the schema is wrong, or what was named is not there; 4 something does not
answer, so a later try may succeed; 5 a bug of ours.
"""

import functools
import getpass
import inspect
import io
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TextIO, cast

import click

from functions.registry import JOBS
from ops import layout
from ops.grants import HEALTH_JOB
from shared.clock import Clock, SystemClock, format_rfc3339
from shared.errors import MaintenanceError, Unavailable
from shared.postgres import Transaction
from shared.services import Services
from shared.sql import Statement
from shared.start_check import check_start

DONE, NO, USAGE, WRONG, DOWN, BUG = range(6)

_RECORD_ACTION = Statement(
    "record_action",
    "Who did what, with which arguments and why.",
    "INSERT INTO maintenance.operator_actions (at, by, action, arguments, reason) "
    "VALUES (:at, :by, :action, CAST(:arguments AS jsonb), :reason)",
)


class NotThere(MaintenanceError):
    """What the command names is not there, or is not in a state for it."""


@dataclass(frozen=True)
class Column:
    """A column of a table: its heading and the field it shows; `whole` where that is not even broken at spaces."""

    heading: str
    name: str
    right: bool = False
    whole: bool = False


class Shell:
    """One command's environment. `as_json` chooses the form of output; the log of a run goes to `log`."""

    def __init__(self, environ: Mapping[str, str], clock: Clock, as_json: bool, log: TextIO) -> None:
        self.services = Services(environ, clock, log)
        self.as_json = as_json

    @property
    def now(self) -> datetime:
        """The time."""
        return self.services.clock.now()

    def tell(self, value: object, *lines: str) -> None:
        """Print a result: as JSON, or as these lines."""
        if self.as_json:
            click.echo(as_text(value))
        else:
            for line in lines:
                click.echo(printable(line))

    def say(self, line: str) -> None:
        """Print a line of what is under way, unless the output is JSON, which comes as one at the end."""
        if not self.as_json:
            click.echo(printable(line))

    def table(self, rows: Sequence[Mapping[str, object]], columns: Iterable[Column], nothing: str) -> None:
        """Print rows: as a JSON array, or as a table; `nothing` is said where there are none.

        Where a table of the terminal's width would break an id, each row is printed as its headings and values.
        """
        if self.as_json:
            click.echo(as_text(rows))
            return
        if not rows:
            click.echo(nothing)
            return
        shown = list(columns)
        headings = [column.heading for column in shown]
        cells = [[cell(row.get(column.name)) for column in shown] for row in rows]
        room = shutil.get_terminal_size().columns
        whole = [place for place, column in enumerate(shown) if column.whole]
        widths = layout.widths(headings, cells, room, whole=whole)
        if widths is None:
            for each in cells:
                for line in layout.pairs(headings, each, room):
                    click.echo(line)
            return
        right = [place for place, column in enumerate(shown) if column.right]
        for line in layout.lines(headings, widths, right=right):
            # Bold on a terminal only: what is piped is plain.
            click.echo(click.style(line, bold=True))
        for each in cells:
            for line in layout.lines(each, widths, right=right):
                click.echo(line)

    @contextmanager
    def changing(self) -> Iterator[Transaction]:
        """A transaction that changes something. Raises Misconfigured where the database is of another environment.

        What any single job needs of the settings is not looked at.
        """
        with self.services.database.transaction() as transaction:
            check_start(transaction, JOBS[HEALTH_JOB], self.services.settings, self.now)
            yield transaction

    def record(
        self, transaction: Transaction, action: str, arguments: Mapping[str, object], reason: str | None = None
    ) -> None:
        """Write down who does this, in the transaction that does it."""
        transaction.execute(
            _RECORD_ACTION, at=self.now, by=operator(), action=action, arguments=as_text(arguments), reason=reason
        )


def command(group: click.Group, name: str) -> Callable[[Callable[..., int | None]], click.Command]:
    """Make a function a command: it is given a Shell and what its options say, and may give an exit code."""

    def decorate(function: Callable[..., int | None]) -> click.Command:
        @click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
        @click.option("--debug", is_flag=True, help="Print a stack trace if something fails.")
        @functools.wraps(function)
        def run(as_json: bool, debug: bool, **arguments: object) -> None:
            with _leaving_readers():
                sys.exit(answered(as_json, debug, arguments))

        def answered(as_json: bool, debug: bool, arguments: Mapping[str, object]) -> int:
            log = cast(TextIO, Warnings(sys.stderr)) if sys.stderr.isatty() else sys.stderr
            shell = Shell(os.environ, SystemClock(), as_json, log)
            try:
                return function(shell, **arguments) or DONE
            except click.Abort:
                # Ctrl-C, or the end of the input, where something was asked.
                click.echo("\nNothing was changed.", err=True)
                return NO
            except click.ClickException:
                raise
            except Exception as error:  # noqa: BLE001  the boundary: whatever it is, it becomes a sentence
                return _failed(shell, error, debug)
            finally:
                shell.services.close()

        # The first sentence as a whole: click would cut it where a terminal of 80 columns has room for no more.
        summary = inspect.cleandoc(function.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
        return group.command(name, short_help=summary)(run)

    return decorate


class _Forgiving:
    """A stream whose reader may leave (`… | head`): what is written then is dropped, and nothing breaks off for it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.left: OSError | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, as long as somebody reads."""
        if self.left is None:
            try:
                return self._stream.write(text)
            except OSError as error:
                self.left = error
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write lines, as long as somebody reads."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush, as long as somebody reads."""
        if self.left is None:
            try:
                self._stream.flush()
            except OSError as error:
                self.left = error


@contextmanager
def _leaving_readers() -> Iterator[None]:
    """Let a command come to its end and its answer, whoever stops reading what it prints.

    Where that is a fault, such as a full disk, and no reader's choice, it is said, and the exit code is WRONG.
    """
    before = sys.stdout, sys.stderr
    out, err = _Forgiving(sys.stdout), _Forgiving(sys.stderr)
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
    try:
        yield
    finally:
        out.flush()
        err.flush()
        # Python writes what is left in them at its exit, and would fail there.
        sys.stdout = before[0] if out.left is None else None
        sys.stderr = before[1] if err.left is None else None
        if out.left is not None and not isinstance(out.left, BrokenPipeError):
            click.echo(f"What was printed is not all there: {out.left.strerror}.", err=True)
            sys.exit(WRONG)


class Warnings(io.TextIOBase):
    """A log for a terminal: of each JSON line only its message, and only where something is not as it should be."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Take one line."""
        line = json.loads(text)
        if line["severity"] != "INFO":
            self._stream.write(f"{cell(line['message'])}\n")
        return len(text)


def as_text(value: object) -> str:
    """A value as JSON, with times as RFC 3339."""
    return json.dumps(value, default=_encoded, indent=2 if sys.stdout.isatty() else None)


def _encoded(value: object) -> object:
    if isinstance(value, datetime):
        return format_rfc3339(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not for JSON")


def cell(value: object) -> str:
    """A value as it stands in a table: nothing as a dash, times to the second, and no control characters."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return format_rfc3339(value.replace(microsecond=0))
    if isinstance(value, Mapping):
        return ", ".join(f"{printable(str(key))} {cell(each)}" for key, each in value.items() if each) or "-"
    if isinstance(value, list):
        return "; ".join(map(cell, value)) or "-"
    return printable(str(value))


def printable(text: str) -> str:
    """Text with everything that a terminal could take for a command made visible."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def operator() -> str:
    """Who is at the keyboard, as far as the machine knows."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def _failed(shell: Shell, error: Exception, debug: bool) -> int:
    """Say on standard error what failed; give the exit code."""
    if debug:
        click.echo(shell.services.redact("".join(traceback.format_exception(error))), err=True)
    if isinstance(error, MaintenanceError):
        click.echo(shell.services.redact(str(error)), err=True)
        return DOWN if isinstance(error, Unavailable) else WRONG
    what = type(error).__name__
    click.echo(f"This is a bug ({what}). Run it again with --debug, and report what it prints.", err=True)
    return BUG
