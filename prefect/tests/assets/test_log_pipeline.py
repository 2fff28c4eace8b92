"""The log pipeline parses what Prefect prints; the samples were printed by real servers, workers and flow runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.datadog.__main__ import multi_line_pattern
from lab.datadog.logs import Pipeline, PipelineError, get, joined, rules_of

INTEGRATION = Path(__file__).parents[2]
LOGS = INTEGRATION / "assets" / "logs"
PIPELINE = Pipeline.load(LOGS / "prefect.yaml")
TESTS = yaml.safe_load((LOGS / "prefect_tests.yaml").read_text(encoding="utf-8"))["tests"]
GROK = [processor for processor in PIPELINE.processors if processor["type"] == "grok-parser"]


@pytest.mark.parametrize("test", TESTS, ids=lambda test: test["sample"][:60])
def test_each_sample_gives_the_expected_log(test: dict[str, Any]) -> None:
    entry = PIPELINE.process(test["sample"])
    result: dict[str, Any] = {"custom": entry.attributes, "message": entry.message, "status": entry.status}
    result["tags"] = ["source:LOGS_SOURCE"]
    if entry.date is not None:
        result["timestamp"] = int(entry.date)
    assert result == test["result"]


def test_the_samples_hold_all_that_the_pipeline_tells_apart() -> None:
    entries = [PIPELINE.process(test["sample"]) for test in TESTS]
    rules = {rule for entry in entries for rule in entry.rules}
    assert rules >= {
        "flow_run",
        "task_run",
        "line",
        "internal",
        "plain",
        "submitting",
        "submitted",
        "beginning",
        "traceback",
    }
    assert {entry.status for entry in entries} == {"info", "warning", "error"}
    for path in (
        "prefect.flow_run_name",
        "prefect.task_run_name",
        "prefect.flow_name",
        "prefect.deployment_name",
        "prefect.worker_name",
        "error.kind",
    ):
        assert any(get(entry.attributes, path) for entry in entries), path


def test_every_facet_is_an_attribute_of_some_sample() -> None:
    found = [PIPELINE.process(test["sample"]).attributes for test in TESTS]
    for facet in PIPELINE.document["facets"]:
        assert any(get(attributes, facet["path"]) for attributes in found), facet["path"]


@pytest.mark.parametrize("processor", GROK, ids=lambda processor: processor["name"])
def test_each_sample_of_a_grok_parser_is_matched_by_one_of_its_rules(processor: dict[str, Any]) -> None:
    rules = rules_of(processor["grok"])
    for sample in processor["samples"]:
        assert any(rule.match(sample) is not None for rule in rules), sample


def test_a_date_is_taken_from_json_and_from_dated_lines_and_not_made_up_from_a_time() -> None:
    line = "17:26:13.712 | INFO    | Flow run 'elite-auk' - Created"
    assert PIPELINE.process(line).date is None
    assert PIPELINE.process(f"2026-11-21 {line}").date == 1795281973712
    assert PIPELINE.process(json.dumps({"created": 1795281973.712, "levelname": "INFO", "msg": "x"})).date == (
        pytest.approx(1795281973712)
    )


@pytest.mark.parametrize(
    ("level", "status"),
    [("DEBUG", "debug"), ("INFO", "info"), ("WARNING", "warning"), ("ERROR", "error"), ("CRITICAL", "critical")],
)
def test_levels_become_statuses(level: str, status: str) -> None:
    assert PIPELINE.process(f"17:26:13.712 | {level:<7} | prefect.server - x").status == status
    assert PIPELINE.process(json.dumps({"levelname": level, "message": "x"})).status == status


def test_a_message_of_several_lines_is_kept_whole() -> None:
    entry = PIPELINE.process("17:26:13.712 | INFO    | Flow run 'elite-auk' - first\nsecond | third - fourth")
    assert entry.message == "first\nsecond | third - fourth"
    assert entry.rules == ["flow_run"]


def test_lines_that_begin_no_entry_belong_to_the_one_before() -> None:
    lines = [
        "Worker 'w' started!",
        "17:26:17.129 | ERROR   | Flow run 'a' - Encountered exception",
        "Traceback (most recent call last):",
        "ValueError: 17:26:17.129 | no",
        "2026-11-21 17:26:17.200 | INFO    | Flow run 'a' - Finished",
        '{"name":"prefect.flow_runs"}',
        '{"name":"prefect.flow_runs"}',
    ]
    entries = list(joined(lines, multi_line_pattern()))
    assert [entry.count("\n") + 1 for entry in entries] == [1, 3, 1, 1, 1]


def test_the_sample_configuration_has_the_multi_line_rule_of_the_specification() -> None:
    text = (INTEGRATION / "datadog_checks" / "prefect" / "data" / "conf.yaml.example").read_text(encoding="utf-8")
    section = text[text.index("# logs:") :].replace("\n# ", "\n").removeprefix("# ")
    [source] = yaml.safe_load(section)["logs"]
    assert source["log_processing_rules"][0]["pattern"] == multi_line_pattern()
    assert source["log_processing_rules"][0]["type"] == "multi_line"


def test_what_is_not_understood_of_grok_is_an_error() -> None:
    with pytest.raises(PipelineError, match="not understood"):
        rules_of({"supportRules": "", "matchRules": "rule %{ipv4:network.client.ip}"})
