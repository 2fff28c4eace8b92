"""The monitors ask for what is submitted, and alert when what they are for is broken, and only then."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from lab.datadog.dashboards import Dashboard, unknown_in
from lab.datadog.monitors import Monitor, State, load_monitors
from lab.datadog.outages import FAULTS, RECORDINGS
from lab.datadog.queries import QueryError, metric_queries
from lab.datadog.series import Recording

ASSETS = Path(__file__).parents[2] / "assets"
MONITORS = load_monitors(ASSETS / "monitors")
DASHBOARD = Dashboard.load(ASSETS / "dashboards" / "prefect_overview.json")
MONITOR_LINK = re.compile(r"\(/dash/integration/prefect\?([^)]*)\)")
DAY_SECONDS = 86400.0

# Which monitors alert for which groups (without the host) in which recording: in all others, and else, none does.
EXPECTED: dict[str, dict[str, set[str]]] = {
    "healthy": {},
    "replaced_workers": {},
    "stopped_worker": {
        "pool_without_worker": {"kubernetes-prod"},
        # what follows from it: nobody polls, runs grow old, and nobody would serve those that are planned
        "queue_not_polled": {"kubernetes-prod critical", "kubernetes-prod bulk", "kubernetes-prod default"},
        "backlog_age": {"kubernetes-prod critical", "kubernetes-prod bulk"},
        "deployment_not_ready": {
            "orders-sync sync-orders",
            "hourly-report report",
            "train-model train",
            "migration migrate",
        },
    },
    "stopped_polling": {
        "queue_not_polled": {"kubernetes-prod bulk", "kubernetes-prod default"},
        "backlog_age": {"kubernetes-prod bulk"},
        "deployment_not_ready": {"train-model train", "migration migrate"},
    },
    "failing_flow": {"failure_rate": {"orders-sync sync-orders"}, "crashed_runs": {"kubernetes-prod"}},
    "slow_flow": {"duration_far_from_usual": {"train-model train"}},
    "stopped_server": {"api_down": {""}},
    "lost_database": {"api_not_ready": {""}},
    # its other queue is served last, and grows old
    "overloaded_worker": {"late_starts": {"kubernetes-prod critical"}, "backlog_age": {"kubernetes-prod bulk"}},
    # what is held up grows old, and starts late in the end
    "tight_limit": {
        "queue_at_its_limit": {"kubernetes-prod bulk"},
        "backlog_age": {"kubernetes-prod bulk"},
        "late_starts": {"kubernetes-prod bulk"},
    },
}


@cache
def recorded(fault: str) -> Recording:
    return Recording.load(RECORDINGS / f"{fault}.json.gz")


def alerts(monitor: Monitor, fault: str) -> set[str]:
    """The groups, without the host, that were in alert; where the monitor looks back, a healthy day came before."""
    recording = recorded(fault)
    begin = recording.start
    if monitor.shift_seconds is not None:
        healthy = recorded("healthy")
        recording = healthy.moved(begin - healthy.start - monitor.shift_seconds).followed_by(recording)
    groups = monitor.reached(recording, begin).get(State.ALERT, set())
    return {" ".join(value for key, value in group if key != "host") for group in groups}


def definition(monitor: Monitor) -> dict[str, Any]:
    found: dict[str, Any] = monitor.document["definition"]
    return found


@pytest.fixture(params=sorted(MONITORS))
def monitor(request: pytest.FixtureRequest) -> Monitor:
    return MONITORS[request.param]


@pytest.mark.parametrize("fault", sorted(EXPECTED))
def test_each_monitor_alerts_only_for_what_is_broken(fault: str) -> None:
    found = {name: groups for name, monitor in MONITORS.items() if (groups := alerts(monitor, fault))}
    assert found == EXPECTED[fault]


def test_there_is_a_recording_of_each_fault_and_a_fault_for_each_monitor() -> None:
    assert EXPECTED.keys() == FAULTS.keys() == {path.name.partition(".")[0] for path in RECORDINGS.iterdir()}
    assert {name for expected in EXPECTED.values() for name in expected} == MONITORS.keys()


def test_no_monitor_so_much_as_warns_on_a_healthy_server_or_when_workers_are_replaced(monitor: Monitor) -> None:
    for fault in ("healthy", "replaced_workers"):
        assert monitor.reached(recorded(fault)) == {}


def test_the_one_that_watches_the_api_alerts_when_nothing_is_reported_any_more() -> None:
    recording = recorded("healthy")
    half = recording.runs[len(recording.runs) // 3]
    silent = Recording(recording.interval_seconds, list(recording.runs), recording.types)
    for key, points in recording.points.items():
        silent.points[key] = [(at, value) for at, value in points if at <= half]
    assert {name for name, found in MONITORS.items() if State.NO_DATA in found.reached(silent)} == {"api_down"}


def test_monitors_name_only_metrics_and_tags_that_are_submitted(monitor: Monitor) -> None:
    assert unknown_in(monitor.expression) == []


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (("work_queue.backlog.age", "work_queue.backlog.years"), "is not submitted"),
        (("{host,work_pool_name,work_queue_name}", "{host,deployment_name}"), "has no tag deployment_name"),
        (("!work_queue_status:paused", "!task_name:paused"), "has no tag task_name"),
    ],
)
def test_a_monitor_on_what_is_not_submitted_is_found(wrong: tuple[str, str], problem: str, tmp_path: Path) -> None:
    text = (ASSETS / "monitors" / "backlog_age.json").read_text(encoding="utf-8")
    assert wrong[0] in text
    (tmp_path / "one.json").write_text(text.replace(*wrong), encoding="utf-8")
    [found] = unknown_in(Monitor.load(tmp_path / "one.json").expression)
    assert problem in found


def test_a_query_that_names_another_threshold_than_the_options_is_an_error(tmp_path: Path) -> None:
    text = (ASSETS / "monitors" / "backlog_age.json").read_text(encoding="utf-8")
    (tmp_path / "one.json").write_text(text.replace("> 300", "> 301"), encoding="utf-8")
    with pytest.raises(QueryError, match="different thresholds"):
        Monitor.load(tmp_path / "one.json")


def test_thresholds_stand_in_an_order_in_which_states_can_follow_each_other(monitor: Monitor) -> None:
    names = ("critical", "warning", "critical_recovery", "warning_recovery")
    values = [monitor.thresholds[name] for name in names if name in monitor.thresholds]
    assert "critical_recovery" in monitor.thresholds
    assert ("warning" in monitor.thresholds) == ("warning_recovery" in monitor.thresholds)
    upwards = monitor.comparator.startswith("<")
    limits = {name: monitor.thresholds[name] * (-1 if upwards else 1) for name in names if name in monitor.thresholds}
    assert limits["critical_recovery"] < limits["critical"]
    if "warning" in limits:
        assert limits["warning_recovery"] < limits["warning"] < limits["critical"]
    assert len(values) == len(limits)


def test_a_state_is_left_only_at_its_recovery_threshold() -> None:
    age = MONITORS["backlog_age"]
    states = [State.OK]
    for value in (100, 130, 301, 299, 121, 119, 70, 60):
        states.append(age.state(value, states[-1]))
    assert states[1:] == ["OK", "Warn", "Alert", "Alert", "Alert", "Warn", "Warn", "OK"]


def test_messages_say_what_it_means_and_what_to_look_at_with_which_command(monitor: Monitor) -> None:
    message = definition(monitor)["message"]
    for part in ("{{#is_alert}}", "{{#is_recovery}}", "**What it means:**", "**Look first:**", "**Thresholds:**"):
        assert part in message
    assert re.search(r"`(sudo |curl |prefect )[^`]+`", message)
    assert ("warning" in monitor.thresholds) == ("{{#is_warning}}" in message)
    assert definition(monitor)["options"]["notify_no_data"] == ("{{#is_no_data}}" in message)


def test_messages_and_names_use_only_tags_by_which_the_monitor_groups(monitor: Monitor) -> None:
    groups = {tag for query in metric_queries(monitor.expression) for tag in query.by}
    text = definition(monitor)["message"] + definition(monitor)["name"]
    assert set(re.findall(r"\{\{(\w+)\.name\}\}", text)) <= groups


def test_messages_link_to_the_dashboard_filtered_to_the_place(monitor: Monitor) -> None:
    [parameters] = MONITOR_LINK.findall(definition(monitor)["message"])
    groups = {tag for query in metric_queries(monitor.expression) for tag in query.by}
    filtered = set()
    for parameter in parameters.split("&"):
        variable, _, value = parameter.removeprefix("tpl_var_").partition("=")
        prefix = DASHBOARD.prefixes[variable]
        [tag] = re.findall(r"\{\{(\w+)\.name\}\}", value)
        assert value == (f"{{{{{tag}.name}}}}" if prefix else f"{tag}:{{{{{tag}.name}}}}")
        assert prefix in (None, tag)
        filtered.add(tag)
    assert filtered == groups


def test_titles_and_descriptions_fit_into_datadogs_list_of_templates(monitor: Monitor) -> None:
    assert 0 < len(monitor.title) <= 80
    assert 0 < len(monitor.document["description"]) <= 300
    assert monitor.document["tags"] == definition(monitor)["tags"] == ["integration:prefect"]
    assert monitor.document["version"] == 2


def test_files_are_written_as_json_tools_write_them(monitor: Monitor) -> None:
    text = (ASSETS / "monitors" / f"{monitor.name}.json").read_text(encoding="utf-8")
    assert text == json.dumps(monitor.document, indent=2, ensure_ascii=False) + "\n"
