"""Dashboard, monitors and log pipeline are what Datadog's own API client takes, without unknown fields."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from datadog_api_client.exceptions import ApiTypeError, ApiValueError
from datadog_api_client.v1.model.dashboard import Dashboard
from datadog_api_client.v1.model.logs_pipeline import LogsPipeline
from datadog_api_client.v1.model.monitor import Monitor

from .models import complaints

ASSETS = Path(__file__).parents[2] / "assets"
DASHBOARD = json.loads((ASSETS / "dashboards" / "prefect_overview.json").read_text(encoding="utf-8"))
# What the files of assets/logs call differently than the API.
RENAMED = {"enabled": "is_enabled", "replace_missing": "is_replace_missing"}


def files(folder: str) -> list[Path]:
    found = sorted((ASSETS / folder).glob("*.json"))
    assert found
    return found


def as_the_api_calls_it(value: Any) -> Any:
    """A pipeline of assets/logs with the API's names: snake_case, and no names of our own."""
    if isinstance(value, dict):
        named = {re.sub(r"[A-Z]", lambda found: f"_{found[0].lower()}", key): item for key, item in value.items()}
        return {RENAMED.get(key, key): as_the_api_calls_it(item) for key, item in named.items()}
    return [as_the_api_calls_it(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("file", files("dashboards"), ids=lambda file: file.name)
def test_dashboards_parse_into_datadogs_models_without_unknown_fields(file: Path) -> None:
    assert complaints(json.loads(file.read_text(encoding="utf-8")), Dashboard) == []


@pytest.mark.parametrize("file", files("monitors"), ids=lambda file: file.name)
def test_monitors_parse_into_datadogs_models_without_unknown_fields(file: Path) -> None:
    assert complaints(json.loads(file.read_text(encoding="utf-8"))["definition"], Monitor) == []


def test_the_log_pipeline_parses_into_datadogs_models_without_unknown_fields() -> None:
    pipeline = yaml.safe_load((ASSETS / "logs" / "prefect.yaml").read_text(encoding="utf-8"))["pipeline"]
    assert complaints(as_the_api_calls_it(pipeline), LogsPipeline) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("foo",), 1),
        (("widgets", 0, "foo"), 1),
        (("widgets", 2, "definition", "widgets", 2, "layout", "z"), 1),
        (("widgets", 2, "definition", "widgets", 2, "definition", "type"), "curve"),
        (("widgets", 2, "definition", "widgets", 2, "definition", "requests", 0, "display_type"), "dots"),
        (("widgets", 2, "definition", "widgets", 2, "definition", "requests", 0, "queries", 0, "foo"), 1),
    ],
)
def test_what_datadogs_models_do_not_know_is_found(path: tuple[str | int, ...], value: Any) -> None:
    document: Any = copy.deepcopy(DASHBOARD)
    # less to parse
    document["widgets"] = document["widgets"][:3]
    for group in document["widgets"]:
        group["definition"]["widgets"] = group["definition"]["widgets"][:3]
    part = document
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    assert complaints(document, Dashboard)


def test_a_value_of_another_type_is_refused() -> None:
    with pytest.raises((ApiTypeError, ApiValueError)):
        complaints({**DASHBOARD, "title": 1}, Dashboard)


@pytest.mark.parametrize("file", files("saved_views"), ids=lambda file: file.name)
def test_saved_views_ask_for_prefects_logs_by_facets_that_the_pipeline_has(file: Path) -> None:
    view = json.loads(file.read_text(encoding="utf-8"))
    pipeline = yaml.safe_load((ASSETS / "logs" / "prefect.yaml").read_text(encoding="utf-8"))
    facets = {"service", "status", "host"} | {f"@{facet['path']}" for facet in pipeline["facets"]}
    assert view["query"].startswith("source:prefect")
    assert set(re.findall(r"@[\w.]+", view["query"])) <= facets
    assert set(view["visible_facets"]) <= facets
    assert set(view.get("options", {}).get("columns", ())) <= facets
