"""How a stand-in ends that is a process of its own: with Ctrl-C, with SIGTERM, or with its owner."""

from __future__ import annotations

import os
import signal
import threading


def asked_to_end() -> threading.Event:
    """Give an event that Ctrl-C, SIGTERM or the end of standard input sets: the process never outlives its owner.

    To be called once, in the main thread.
    """
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    threading.Thread(target=_await_end_of_input, args=(ended,), daemon=True).start()
    return ended


def _await_end_of_input(ended: threading.Event) -> None:
    # Not through sys.stdin, whose lock would still be held when the interpreter ends.
    while os.read(0, 4096):
        pass
    ended.set()
