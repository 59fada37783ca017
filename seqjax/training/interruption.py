"""Signals that stop a run after the current step."""

import contextlib
import os
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def signals() -> Iterator[list[int]]:
    """Collects the first SIGINT or SIGTERM in a list and prints a line; a second one has its default effect."""
    received: list[int] = []

    def note(number, frame):
        received.append(number)
        for other, handler in before.items():
            signal.signal(other, handler)
        with contextlib.suppress(OSError):  # bypasses Python's streams: the handler may interrupt a print
            text = b"stopping after this step; press again to stop immediately\n"
            os.write(2, b"\n" + text) if os.isatty(2) else os.write(1, text)  # a terminal shows the bar and ^C there

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
