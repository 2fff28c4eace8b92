"""What the version that a server names says about it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from datadog_checks.prefect.api.versions import SINCE, is_supported, lacking

COMPATIBILITY = Path(__file__).parents[3] / "docs" / "compatibility.md"


@pytest.mark.parametrize("version", ["0.15.13", "1.4.1", "2.0.0", "2.20.25", "2.20.25+7.g0a1b2c3"])
def test_servers_before_prefect_3_are_not_supported(version: str) -> None:
    assert not is_supported(version)


@pytest.mark.parametrize(
    "version", ["3.0.0", "3.0.0rc1", "3.8.8", "3.10.0", "4.0.0", "30.1.2", "0+unknown", "", "main"]
)
def test_servers_from_prefect_3_on_are_supported_and_so_are_those_that_do_not_say(version: str) -> None:
    assert is_supported(version)


@pytest.mark.parametrize(
    ("version", "number"),
    [
        ("3.0.0rc1", 6),
        ("3.0.11", 6),
        ("3.1.2", 6),
        ("3.1.3", 5),
        ("3.3.7", 5),
        ("3.4.0", 4),
        ("3.4.18", 4),
        ("3.4.19", 3),
        ("3.6.1", 3),
        ("3.6.2", 2),
        ("3.6.21", 2),
        ("3.6.22", 1),
        ("3.6.23", 0),
        ("3.8.8", 0),
        ("3.10.0", 0),
        ("4.0.0", 0),
        ("0+unknown", 0),
    ],
)
def test_the_newer_a_server_is_the_less_it_lacks(version: str, number: int) -> None:
    assert len(lacking(version)) == number


def test_the_documents_tell_of_each_version_that_lacks_something() -> None:
    rows_of_three_cells = re.findall(r"^\| ([\d.]+) \|[^|]+\|[^|]+\|$", COMPATIBILITY.read_text("utf-8"), re.MULTILINE)
    assert rows_of_three_cells == [".".join(map(str, since)) for since, _ in SINCE]
