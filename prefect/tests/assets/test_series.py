"""Recordings keep what Datadog would keep."""

from __future__ import annotations

from pathlib import Path

from lab.agent import CheckRunResult, Series
from lab.datadog.series import Recording

SIZE, WAIT = "prefect.server.size", "prefect.server.wait"


def test_series_have_the_host_and_tags_in_lower_case() -> None:
    recording = Recording(15)
    recording.add(CheckRunResult([Series(SIZE, "gauge", 2, frozenset({"status:NOT_READY"}))]), 100, "Agent-1")
    assert recording.points == {(SIZE, frozenset({"status:not_ready", "host:agent-1"})): [(100, 2)]}
    assert recording.types == {SIZE: "gauge"}


def test_a_histogram_becomes_the_series_that_the_agent_makes_of_it() -> None:
    recording = Recording(15)
    recording.add(CheckRunResult([Series(WAIT, "histogram", value, frozenset()) for value in (1, 5)]), 100, "a")
    assert recording.names() == {f"{WAIT}.{name}" for name in ("avg", "max", "median", "95percentile", "count")}
    assert [points for _, points in recording.of(f"{WAIT}.max")] == [[(100, 5)]]


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    recording = Recording(15)
    for number in range(3):
        recording.add(CheckRunResult([Series(SIZE, "gauge", number, frozenset({"a:b"}))]), 100.0 + number, "h")
    recording.logs = [("server", "a line")]
    recording.save(tmp_path / "it.json.gz")
    loaded = Recording.load(tmp_path / "it.json.gz")
    assert (loaded.runs, loaded.points, loaded.logs) == (recording.runs, dict(recording.points), recording.logs)


def test_an_earlier_recording_can_stand_before_a_later_one() -> None:
    recording = Recording(15)
    recording.add(CheckRunResult([Series(SIZE, "gauge", 1, frozenset())]), 1000, "h")
    both = recording.moved(-100).followed_by(recording)
    assert both.points[SIZE, frozenset({"host:h"})] == [(900, 1), (1000, 1)]
    assert both.runs == [900, 1000]
