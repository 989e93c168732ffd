"""The operators' page for a browser on this machine."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import click

from ops.shell import Shell, command

_PORT = 8600


def add_to(group: click.Group) -> None:
    """Add this command."""

    @command(group, "console")
    @click.option("--port", type=click.IntRange(1, 65_535), default=_PORT, show_default=True, help="Of this machine.")
    @click.option(
        "--project",
        envvar="GOOGLE_CLOUD_PROJECT",
        show_envvar=True,
        help="The project's id, with which a run's page links to its log lines.",
    )
    def console(shell: Shell, port: int, project: str | None) -> None:
        """Serve a page that shows how the jobs are, what ran, what waits and why, until Ctrl-C.

        It is for a browser on this machine and changes nothing.

        Example: python -m ops console --port 8600
        """
        # Imported here: no other command pays for a web server.
        from ops.console.app import HOST, create_app
        from ops.console.serving import Server

        server = Server(create_app(shell.services, port=port, project=project), port)
        address = f"http://{HOST}:{port}"
        shell.tell(
            {"address": address}, f"The console is at {address}, for every user of this machine. Ctrl-C ends it."
        )
        with _ended_by_ctrl_c(server.stop):
            server.serve()


@contextmanager
def _ended_by_ctrl_c(stop: Callable[[], None]) -> Iterator[None]:
    """Let the first Ctrl-C ask for the end, and a second one break off.

    An exception in the middle of whatever the server is doing could leave an answer half sent, or a lock taken.
    """

    def ask(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stop()

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
