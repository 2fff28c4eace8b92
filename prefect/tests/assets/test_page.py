"""The page shows what the widgets found, and the command fails where they found nothing."""

from __future__ import annotations

from html import escape
from pathlib import Path

import pytest

from lab.datadog import __main__ as command
from lab.datadog.dashboards import Dashboard, draw
from lab.datadog.logs import Entry
from lab.datadog.monitors import State
from lab.datadog.outages import RECORDINGS
from lab.datadog.page import formatted, markdown, page
from lab.datadog.series import Recording


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the command writes to."""
    monkeypatch.setattr(command, "OUTPUT", tmp_path / "dist")
    return tmp_path / "dist"


def without(metric: str, path: Path) -> Path:
    """A healthy recording that lacks a metric."""
    recording = Recording.load(RECORDINGS / "healthy.json.gz")
    for key in [key for key in recording.points if key[0] == metric]:
        del recording.points[key]
    recording.save(path)
    return path


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0123, "second", "12 ms"),
        (1.5, "second", "1.50 s"),
        (90, "second", "1.50 min"),
        (7200, "second", "2 h"),
        (172800, "second", "2 d"),
        (1, "run", "1 run"),
        (0, "run", "0 runs"),
        (12345, "run", "12345 runs"),
        (33.3333, "percent", "33.33 %"),
        (1, "", "1 "),
        (1234.5, "", "1.2k "),
    ],
)
def test_numbers_are_shown_in_the_unit_that_fits_them(value: float, unit: str, text: str) -> None:
    assert " ".join(formatted(value, unit)) == text


def test_markdown_of_notes_becomes_html_and_nothing_else_gets_through() -> None:
    text = "# A\n\n**b** `c<d>` [e](https://f/)\n\n- g\n- h"
    assert markdown(text) == (
        '<h1>A</h1><p><b>b</b> <code>c&lt;d&gt;</code> <a href="https://f/">e</a></p><ul><li>g</li><li>h</li></ul>'
    )


def test_the_page_needs_nothing_else_and_shows_each_widget_monitor_event_and_log() -> None:
    dashboard = Dashboard.load(command.DASHBOARD)
    pictures = draw(dashboard, Recording.load(RECORDINGS / "healthy.json.gz"))
    event = {"timestamp": 0, "alert_type": "error", "msg_title": "<an event>"}
    log = Entry("a-service", "a message\nof two lines", "error")
    html = page(dashboard, pictures, {"a monitor": State.ALERT}, [event], [log], "a caption")
    head, _, body = html.partition("</script>")
    for text in ("a monitor", "&lt;an event&gt;", "a-service", "a message", "a caption"):
        assert text in body
    assert body.count("class=plot") == sum(1 for picture in pictures.values() if picture.lines)
    for widget in dashboard.widgets:
        assert f'data-name="{escape(widget.title)}"' in body
    assert not [
        text for text in ("<link", "@import", "url(http", "<img", " src=") if text in body or text in head[:9000]
    ]


def test_the_command_names_widgets_that_are_empty(output: Path, tmp_path: Path) -> None:
    path = without("prefect.server.work_pool.worker.heartbeat_age_seconds", tmp_path / "recording.json.gz")
    problems = command.make_dashboard({"RECORDING": str(path), "PICTURES": "0"})
    assert "Workers by heartbeat age: no data" in problems
    assert (output / "dashboard.html").stat().st_size > 1_000_000


def test_the_command_records_nothing_for_a_monitor_on_what_is_not_submitted(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (command.MONITORS / "backlog_age.json").read_text(encoding="utf-8")
    (tmp_path / "one.json").write_text(text.replace("backlog.age", "backlog.years"), encoding="utf-8")
    monkeypatch.setattr(command, "MONITORS", tmp_path)
    [problem] = command.make_dashboard({"RECORDING": "/nowhere"})
    assert problem.endswith("prefect.server.work_queue.backlog.years is not submitted")
    assert not output.exists()


def test_the_command_records_nothing_for_a_dashboard_that_asks_for_what_is_not_submitted(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = command.DASHBOARD.read_text(encoding="utf-8").replace("flow_runs.throughput", "flow_runs.output")
    (tmp_path / "dashboard.json").write_text(text, encoding="utf-8")
    monkeypatch.setattr(command, "DASHBOARD", tmp_path / "dashboard.json")
    problems = command.make_dashboard({"RECORDING": "/nowhere"})
    assert any("prefect.server.flow_runs.output is not submitted" in problem for problem in problems)
    assert not output.exists()
