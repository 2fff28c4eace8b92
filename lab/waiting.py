"""Waiting for a condition, never for a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from .errors import LabError

T = TypeVar("T")


def wait_until(condition: Callable[[], T], timeout_seconds: float, what: str, interval_seconds: float = 0.1) -> T:
    """Call `condition` until its answer is true, and return that answer.

    `what` completes the sentence "... did not come within N s" of the `LabError` that a deadline ends in.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() >= deadline:
            raise LabError(f"{what} did not come within {timeout_seconds:g} s.")
        time.sleep(interval_seconds)
