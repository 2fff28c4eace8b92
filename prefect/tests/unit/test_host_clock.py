"""Nothing in the package asks what time the host has, but the clock that corrects it by the server's answers."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import datadog_checks.prefect as package

FOLDER = Path(package.__file__).parent
# Times without a zone, which go by the zone of the host, are ruff's to find (DTZ).
WALL_CLOCKS = {
    "time": {"time", "time_ns", "localtime", "gmtime", "ctime", "strftime", "clock_gettime", "clock_gettime_ns"},
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
}
MODULES = {path.relative_to(FOLDER).as_posix(): path.read_text() for path in sorted(FOLDER.rglob("*.py"))}


def asked_for(source: str) -> Iterator[str]:
    """What of the host's wall clock a module names, whether called or handed on."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
            if node.attr in WALL_CLOCKS.get(owner, ()):
                yield f"{owner}.{node.attr}"
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            yield from (f"time.{name.name}" for name in node.names if name.name in WALL_CLOCKS["time"])


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"api/clock.py"}))
def test_no_module_asks_for_the_time_of_the_host(module: str) -> None:
    assert list(asked_for(MODULES[module])) == []


def test_the_clock_itself_asks_once() -> None:
    assert list(asked_for(MODULES["api/clock.py"])) == ["time.time"]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import time\ntime.time()", ["time.time"]),
        ("import datetime\ndatetime.datetime.now(UTC)", ["datetime.now"]),
        ("from datetime import datetime\nnow = datetime.utcnow", ["datetime.utcnow"]),
        ("from datetime import date\ndate.today()", ["date.today"]),
        ("from time import time", ["time.time"]),
        ("import time\ntime.monotonic()", []),
        ("self.context.now()", []),
    ],
)
def test_every_way_to_ask_for_it_is_found(source: str, found: list[str]) -> None:
    assert list(asked_for(source)) == found
