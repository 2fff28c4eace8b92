"""The dashboard follows Datadog's rules for good ones, and names only what is submitted."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from datadog_checks.prefect.output.metrics import METRICS
from lab.datadog.dashboards import Dashboard, Picture, Widget, draw, expressions_of, problems_of, requests_of
from lab.datadog.outages import RECORDINGS
from lab.datadog.queries import metric_queries
from lab.datadog.series import Recording

ASSETS = Path(__file__).parents[2] / "assets"
FILE = ASSETS / "dashboards" / "prefect_overview.json"
DASHBOARD = Dashboard.load(FILE)
WIDGETS = list(DASHBOARD.widgets)
UNITS = re.compile(r"seconds?\b|percent\b|\(s\)|\(%\)|%")
SMALL_WORDS = {"and", "at", "in", "is", "of", "the"}


def of_type(*types: str) -> list[Widget]:
    found = [widget for widget in WIDGETS if widget.type in types]
    assert found
    return found


def changed(old: str, new: str, folder: Path) -> Dashboard:
    """The dashboard with a fault."""
    text = FILE.read_text(encoding="utf-8")
    assert old in text
    path = folder / "dashboard.json"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return Dashboard.load(path)


def overlap(one: Widget, other: Widget) -> bool:
    a, b = one.layout, other.layout
    return (
        a["x"] < b["x"] + b["width"]
        and b["x"] < a["x"] + a["width"]
        and a["y"] < b["y"] + b["height"]
        and b["y"] < a["y"] + a["height"]
    )


def test_it_asks_only_for_metrics_and_tags_that_are_submitted_filtered_by_every_variable_that_applies() -> None:
    assert problems_of(DASHBOARD) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("flow_runs.throughput", "flow_runs.output", "is not submitted"),
        ("by {flow_name,deployment_name}", "by {flow_name,deployment}", "has no tag deployment"),
        ("$work_pool_name,$work_queue_name", "$work_pool_name,$queue", "cannot be filtered by $queue"),
        ("$prefect_server,$work_pool_name}", "$prefect_server}", "is not filtered by $work_pool_name"),
        (".as_count()", "", "neither as_count nor as_rate"),
        ("max:prefect.server.work_queue.backlog.age", "sum:prefect.server.work_queue.backlog.age", "is summed up"),
        ('"formula": "query2"', '"formula": "query9"', "there is no query query9"),
    ],
)
def test_a_widget_that_asks_for_what_is_not_there_is_found(old: str, new: str, problem: str, tmp_path: Path) -> None:
    assert any(problem in found for found in problems_of(changed(old, new, tmp_path)))


def test_a_widget_without_data_is_found() -> None:
    recording = Recording.load(RECORDINGS / "healthy.json.gz")
    missing = "prefect.server.work_queue.concurrency.in_use"
    for key in [key for key in recording.points if key[0] == missing]:
        del recording.points[key]
    empty = {picture.widget.title for picture in draw(DASHBOARD, recording).values() if picture.problem}
    assert empty == {"Work queues by use of their limit", "Concurrency limit in use"}


def test_each_variable_narrows_down_what_widgets_show() -> None:
    recording = Recording.load(RECORDINGS / "healthy.json.gz")
    values = {"work_pool_name": "process-tools", "flow_name": "train", "service": "other", "scope": "team:other"}
    whole = draw(DASHBOARD, recording)
    for name, value in values.items():
        part = draw(DASHBOARD, recording, {name: value})
        assert any(seen(part[number]) != seen(whole[number]) for number in whole), name


def seen(picture: Picture) -> tuple[Any, ...]:
    return picture.value, picture.rows, picture.lines


def test_every_metric_but_those_that_others_say_better_is_shown() -> None:
    shown = {
        query.metric
        for widget in WIDGETS
        for _, expression in expressions_of(widget)
        for query in metric_queries(expression)
    }
    families = {metric.full_name for metric in METRICS if any(name.startswith(metric.full_name) for name in shown)}
    missing = {metric.name for metric in METRICS} - {name.removeprefix("prefect.server.") for name in families}
    # the numbers of workers, and not ready, tell the same; concurrency limits have no widget yet
    assert missing == {
        "concurrency_limit.limit",
        "concurrency_limit.active_slots",
        "concurrency_limit.in_use",
        "concurrency_limit.is_active",
        "work_pool.is_ready",
        "work_pool.is_paused",
        "work_pool.worker.is_online",
        "work_queue.is_ready",
        "work_queue.is_paused",
    }


def test_it_begins_with_what_it_is_and_with_the_monitors() -> None:
    about, overview = DASHBOARD.groups[:2]
    assert (about.title, overview.title) == ("About Prefect", "Overview")
    assert about.layout["y"] == overview.layout["y"] == 0
    assert about.layout["width"] + overview.layout["width"] == 12
    assert overview.widgets[0].type == "manage_status"
    assert overview.widgets[0].layout["y"] == 0


def test_the_about_group_describes_every_template_variable() -> None:
    [note] = DASHBOARD.groups[0].widgets
    for name in DASHBOARD.prefixes:
        assert f"**{name}**" in note.definition["content"]
    assert set(DASHBOARD.prefixes) == {
        "scope",
        "service",
        "prefect_server",
        "work_pool_name",
        "work_queue_name",
        "deployment_name",
        "flow_name",
        "prefect_tag",
    }


def test_streams_stand_alone_at_the_end_and_say_what_they_need() -> None:
    last = DASHBOARD.groups[-1]
    assert [widget for widget in WIDGETS if widget.type == "list_stream"] == list(last.widgets[1:])
    for option in ("collect_events: true", "logs_enabled: true"):
        assert option in last.widgets[0].definition["content"]
    assert all(widget.layout["width"] >= 6 for widget in last.widgets)


def test_groups_are_titled_in_title_case_and_widgets_in_sentence_case_without_units() -> None:
    for group in DASHBOARD.groups:
        assert all(word[0].isupper() or word in SMALL_WORDS for word in group.title.split())
    for widget in WIDGETS:
        title = widget.definition.get("title")
        if title is not None:
            assert title[0].isupper()
            assert not UNITS.search(title)
            assert all(word.islower() or word.isupper() for word in title.split()[1:]), title


def test_curves_are_wide_enough_to_be_read() -> None:
    assert all(widget.layout["width"] >= 4 for widget in of_type("timeseries"))


def test_no_widget_stands_on_another_or_beside_its_group() -> None:
    for group in DASHBOARD.groups:
        for number, widget in enumerate(group.widgets):
            assert widget.layout["x"] + widget.layout["width"] <= group.layout["width"]
            assert widget.layout["y"] + widget.layout["height"] < group.layout["height"]
            assert not [other for other in group.widgets[number + 1 :] if overlap(widget, other)]


def test_each_row_of_detail_is_a_note_a_top_list_and_curves_over_the_whole_width() -> None:
    for group in DASHBOARD.groups[2:-1]:
        for top in {widget.layout["y"] for widget in group.widgets}:
            row = sorted((w for w in group.widgets if w.layout["y"] == top), key=lambda widget: widget.layout["x"])
            assert [widget.type for widget in row] == ["note", "toplist", "timeseries"]
            assert sum(widget.layout["width"] for widget in row) == 12


def test_formulas_have_aliases_and_values_backgrounds() -> None:
    for widget in WIDGETS:
        for request in requests_of(widget):
            assert all(formula["alias"] for formula in request["formulas"])
    for widget in of_type("query_value"):
        assert widget.definition["timeseries_background"]["type"] == "area"


def test_values_that_can_be_bad_are_colored_by_thresholds() -> None:
    plain = {
        widget.title
        for widget in of_type("query_value")
        if not widget.definition["requests"][0].get("conditional_formats")
    }
    assert plain == {"Flow runs started"}


def test_ids_of_widgets_are_their_own() -> None:
    ids = [widget.id for widget in WIDGETS] + [outer["id"] for outer in DASHBOARD.document["widgets"]]
    assert len(ids) == len(set(ids))


def test_the_file_is_written_as_json_tools_write_it() -> None:
    assert FILE.read_text(encoding="utf-8") == json.dumps(DASHBOARD.document, indent=2, ensure_ascii=False) + "\n"
