"""What the commands of the lab have in common."""

from __future__ import annotations

import logging
import signal
import sys

INTERRUPTED = "Interrupted; everything that was started is stopped."
INTERRUPTED_CODE = 130


def begin_command() -> None:
    """Keep the check's log off the terminal, and let the signals that end a program end it in order.

    What the check logs is in the reports, or is what it is meant to suffer; without a handler, Python would print it in
    between.
    """
    logging.getLogger().addHandler(logging.NullHandler())
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
