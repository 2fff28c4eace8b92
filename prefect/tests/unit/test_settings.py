"""The options as the check works with them, and the digest that names its stored state."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from .fake_http import URL
from .wiring import settings_of as settings


def test_options_that_are_not_set_have_their_documented_defaults() -> None:
    found = settings()
    assert (found.url, found.tags, dict(found.headers), found.collect_events) == (
        URL,
        ("prefect_server:prefect.test:4200",),
        {},
        False,
    )
    assert found.late_after == timedelta(seconds=15)
    assert found.worker_stale_after == timedelta(seconds=3600)
    assert found.interval == timedelta(seconds=15)
    assert found.filters.work_pools.takes("anything")


def test_options_that_are_set_are_taken() -> None:
    found = settings(
        tags=["env:prod"],
        custom_headers={"X-Team": "data"},
        collect_events=True,
        late_start_grace_seconds=0,
        worker_stale_after_seconds=90.5,
        min_collection_interval=60,
        work_pool_names={"include": ["etl"]},
        work_queue_names={"exclude": ["low"]},
        deployment_names={"include": ["nightly"], "exclude": ["test"]},
        event_names={"include": ["Failed$"]},
    )
    tags = ("env:prod", "prefect_server:prefect.test:4200")
    assert (found.tags, dict(found.headers), found.collect_events) == (tags, {"X-Team": "data"}, True)
    assert (found.late_after, found.worker_stale_after) == (timedelta(), timedelta(seconds=90.5))
    assert found.interval == timedelta(seconds=60)
    filters = found.filters
    assert [filters.work_pools.takes(name) for name in ("etl", "ml")] == [True, False]
    assert [filters.work_queues.takes(name) for name in ("high", "low")] == [True, False]
    assert [filters.deployments.takes(name) for name in ("nightly", "nightly test")] == [True, False]
    assert [filters.events.takes(name) for name in ("prefect.flow-run.Failed", "prefect.flow-run.Late")] == [
        True,
        False,
    ]


@pytest.mark.parametrize(("interval", "budget"), [(1, 15.0), (15, 15.0), (60, 60.0)])
def test_a_check_run_may_take_its_interval_but_not_less_than_fifteen_seconds(interval: float, budget: float) -> None:
    assert settings(min_collection_interval=interval).budget_seconds == budget


@pytest.mark.parametrize(
    ("url", "ui_url"),
    [
        (URL, "http://prefect.test:4200"),
        (f"{URL}/", "http://prefect.test:4200"),
        ("https://host/team/prefect/api", "https://host/team/prefect"),
        ("https://host/prefect", "https://host/prefect"),
        (
            "https://api.prefect.cloud/api/accounts/a1/workspaces/w1",
            "https://app.prefect.cloud/account/a1/workspace/w1",
        ),
        ("https://gateway/api/accounts/a1/workspaces/w1/", "https://gateway/account/a1/workspace/w1"),
    ],
)
def test_the_user_interface_is_where_the_api_is_without_its_last_part(url: str, ui_url: str) -> None:
    assert settings(prefect_url=url).ui_url == ui_url


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"prefect_url": URL}, {"prefect_url": f"{URL}/"}),
        ({"prefect_url": URL}, {"prefect_url": f"{URL}///"}),
        ({"prefect_url": URL}, {"prefect_url": "HTTP://Prefect.TEST:4200/api"}),
        ({"prefect_url": "http://host/api"}, {"prefect_url": "http://host:80/api"}),
        ({"prefect_url": "https://host/api"}, {"prefect_url": "https://host:443/api/"}),
        ({"tags": ["a:1", "b:2"]}, {"tags": ["b:2", "a:1"]}),
        ({}, {"tags": []}),
        ({"work_pool_names": {"include": ["a", "b"]}}, {"work_pool_names": {"include": ["b", "a"]}}),
        ({}, {"work_pool_names": {"include": [], "exclude": []}}),
        ({"username": "u", "password": "old"}, {"username": "v", "password": "new"}),
        ({"auth_string": "u:p"}, {"api_key": "k"}),
        ({}, {"custom_headers": {"Authorization": "Bearer x"}, "headers": {"X": "1"}}),
        ({}, {"event_names": {"include": ["Failed"]}, "collect_events": True}),
        ({}, {"late_start_grace_seconds": 60, "worker_stale_after_seconds": 60}),
        ({}, {"timeout": 3, "min_collection_interval": 60}),
    ],
    ids=str,
)
def test_the_stored_state_is_kept_where_the_same_is_counted(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert settings(**one).digest() == settings(**other).digest()


@pytest.mark.parametrize(
    "other",
    [
        {"prefect_url": "https://prefect.test:4200/api"},
        {"prefect_url": "http://prefect.test:4201/api"},
        {"prefect_url": "http://prefect.test/api"},
        {"prefect_url": "http://other.test:4200/api"},
        {"prefect_url": "http://prefect.test:4200/API"},
        {"prefect_url": "http://prefect.test:4200/team/api"},
        {"work_pool_names": {"include": ["etl"]}},
        {"work_pool_names": {"exclude": ["etl"]}},
        {"work_queue_names": {"include": ["etl"]}},
        {"deployment_names": {"include": ["etl"]}},
        {"tags": ["env:prod"]},
    ],
    ids=str,
)
def test_the_stored_state_is_another_where_something_else_is_counted(other: dict[str, Any]) -> None:
    assert settings(**other).digest() != settings().digest()


def test_all_selections_have_digests_of_their_own() -> None:
    options = ("work_pool_names", "work_queue_names", "deployment_names")
    selections = [{option: {side: ["etl"]}} for option in options for side in ("include", "exclude")]
    assert len({settings(**selection).digest() for selection in selections}) == 6


def test_the_digest_is_the_same_in_every_process_and_fit_for_a_file_name() -> None:
    assert settings(tags=["env:prod"]).digest() == settings(tags=["env:prod"]).digest()
    assert len(settings().digest()) == 16
    assert set(settings().digest()) <= set("0123456789abcdef")


@pytest.mark.parametrize(
    ("url", "is_cloud"),
    [
        ("https://api.prefect.cloud/api/accounts/a1/workspaces/w1", True),
        ("https://api.prefect.cloud/api/accounts/a1/workspaces/w1/", True),
        ("https://gateway/api/accounts/a1/workspaces/w1", True),
        ("https://api.prefect.cloud/api/accounts/a1", False),
        ("https://api.prefect.cloud/api", False),
        (URL, False),
    ],
)
def test_prefect_cloud_is_told_by_the_path_of_a_workspace(url: str, is_cloud: bool) -> None:
    assert settings(prefect_url=url).is_cloud is is_cloud
