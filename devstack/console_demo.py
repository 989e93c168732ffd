"""`make console`: the operators' page on a month of made-up history, at http://127.0.0.1:8600, until Ctrl-C.

The stack is that of `make dev`: the service's tables are seeded too, so that something waits for each job.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import subprocess
import sys
import webbrowser
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

import click

from devstack import guardian
from devstack.demo_cleanups import seed, with_front
from devstack.history import seed_month
from devstack.prepared import prepare
from devstack.serving import REPOSITORY
from devstack.stack import terminated_cleanly
from devstack.telling import StepFailed, Teller, closed_calmly, exit_code, tell_exports
from devstack.usage import seed_usage
from devstack.watcher import start_watcher

PORT = 8600
_PER_KIND = 300
_USERS_PER_KIND = 2
_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 5.0


def serve(environ: Mapping[str, str], teller: Teller, cleanup: contextlib.ExitStack, port: int) -> Page:
    """Start the stack, seed it, and serve the page on the port; all of it ends with `cleanup`.

    Raises StepFailed, StartError, MaintenanceError, or what `prepare` raises.
    """
    now = datetime.now(UTC)
    prepared, front = with_front(
        prepare(environ, teller, cleanup, purpose="console", per_kind=_PER_KIND, now=now), cleanup
    )
    told = "what waits for each job"
    with teller.step(f"Seeding {told}", told), prepared.transaction() as connection:
        seed_usage(connection, prepared.stripe.account, _USERS_PER_KIND, now)
        seed(connection, prepared.settings["GCS_BUCKET_NAME"], front, now)
    told = "a month of history"
    with teller.step(f"Seeding {told}", told):
        seed_month(prepared.settings["DATABASE_URL"], now)
    page = Page(cleanup.enter_context(_console(prepared.settings, port)), port, prepared.settings)
    told = f"python -m ops console --port {port}"
    with teller.step(told, told):
        page.wait_until_up()
    return page


class Page:
    """The page while it is served: its `url`, the process that serves it, and the settings that it was given."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, settings: Mapping[str, str]) -> None:
        self.url = f"http://127.0.0.1:{port}/"
        self.process = process
        self.settings = settings
        self._port = port

    def wait_until_up(self) -> None:
        """Wait until it is served. Raises StepFailed where it is not, or answers with an error."""
        assert self.process.stdout is not None  # noqa: S101  as it was started
        # Said once the port is its own: somebody else's server on it would answer, too.
        if not self.process.stdout.readline():
            self.process.wait()
        self.check()
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_TIMEOUT_S)
        try:
            connection.request("GET", "/")
            status = connection.getresponse().status
        finally:
            connection.close()
        if status != http.client.OK:
            raise StepFailed(f"The page answered {status}.")

    def check(self) -> None:
        """Raise StepFailed if it is not served any more; why was said on standard error."""
        code = self.process.poll()
        if code is not None:
            raise StepFailed(f"`python -m ops console` ended with {code}.")

    def wait(self) -> None:
        """Wait until it is not served any more, which is an error: StepFailed."""
        self.process.wait()
        self.check()


@contextlib.contextmanager
def _console(settings: Mapping[str, str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run the operator's command as a child, in the group of a watcher, which Ctrl-C on a terminal does not reach."""
    watcher, pipe = start_watcher()
    try:
        process = subprocess.Popen(  # noqa: S603 - our own command, no shell
            [sys.executable, "-m", "ops", "console", "--port", str(port)],
            cwd=REPOSITORY,
            env={"PATH": os.environ.get("PATH", os.defpath), **settings},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            process_group=watcher.pid,
        )
        try:
            yield process
        finally:
            # It only reads. Interrupted while it starts, Python would tell a traceback.
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_TIMEOUT_S)
            process.kill()
            process.communicate()
    finally:
        # The end of the pipe ends the watcher, and what may be left in its group.
        guardian.release(pipe)
        watcher.wait()


def _has_display(environ: Mapping[str, str]) -> bool:
    return sys.platform == "darwin" or bool(environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY"))


@click.command(help=__doc__)
@click.option("--port", type=click.IntRange(1, 65_535), default=PORT, show_default=True, help="The page's port.")
def main(port: int) -> None:
    """Serve the page until Ctrl-C or SIGTERM, its normal end."""

    def work() -> None:
        teller = Teller()
        with terminated_cleanly(), closed_calmly() as cleanup:
            page = serve(os.environ, teller, cleanup, port)
            try:
                click.echo("\n# To try commands on the same month, in another terminal:")
                tell_exports(page.settings)
                click.echo(".venv/bin/python -m ops status")
                # Not by rich, which would break a line that is to be copied.
                click.echo(f"\nThe operators' page, with made-up history: {page.url}\nCtrl-C ends it.")
                if _has_display(os.environ):
                    webbrowser.open(page.url)
                page.wait()
            except (KeyboardInterrupt, SystemExit):
                click.echo("\nStopping …")
        click.echo("Stopped: nothing is left.")

    sys.exit(exit_code(work))


if __name__ == "__main__":
    main()
