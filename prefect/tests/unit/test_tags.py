"""Tags, and what the resources of an event tell."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from datadog_checks.prefect.api.models import WorkPool, WorkQueue
from datadog_checks.prefect.mirror.inventory import pool_tags, queue_tags
from datadog_checks.prefect.tags import RunTags, related_by_role, resource_kind_and_id, tag_set

from .builders import related


def test_tags_without_a_value_are_left_out() -> None:
    assert tag_set(b="two", a=None, c="", d="four") == ("b:two", "d:four")


def test_zero_and_false_are_values() -> None:
    assert tag_set(work_queue_priority=0, is_paused=False) == ("is_paused:false", "work_queue_priority:0")


def test_truth_is_written_in_lower_case() -> None:
    assert tag_set(is_paused=True) == ("is_paused:true",)


def test_equal_tag_sets_are_equal_in_whatever_order_they_are_given() -> None:
    assert tag_set(a=1, b=2) == tag_set(b=2, a=1)


def test_a_flow_run_has_the_tags_of_what_it_belongs_to() -> None:
    run_tags = RunTags("d", "nightly", "f", "etl", "p", "etl pool ü", "q", "default")
    assert run_tags.tags() == (
        "deployment_id:d",
        "deployment_name:nightly",
        "flow_id:f",
        "flow_name:etl",
        "work_pool_id:p",
        "work_pool_name:etl pool ü",
        "work_queue_id:q",
        "work_queue_name:default",
    )


def test_a_run_without_a_deployment_has_no_tags_of_one() -> None:
    assert RunTags(flow_id="f", flow_name="etl").tags() == ("flow_id:f", "flow_name:etl")
    assert RunTags().tags() == ()


def test_more_tags_may_be_added() -> None:
    assert RunTags(flow_id="f").tags(task_name="load", task_key=None) == ("flow_id:f", "task_name:load")


def test_a_work_pool_is_tagged_with_its_type() -> None:
    pool = WorkPool(id="p", name="etl pool ü", type="process", status="READY")
    assert pool_tags(pool) == ("work_pool_id:p", "work_pool_name:etl pool ü", "work_pool_type:process")


def test_a_work_queue_is_tagged_with_its_pool_and_where_it_is_asked_for_with_its_status() -> None:
    queue = WorkQueue(id="q", name="default", priority=1, status="NOT_READY", work_pool_id="p", work_pool_name="etl")
    tags = ("work_pool_id:p", "work_pool_name:etl", "work_queue_id:q", "work_queue_name:default")
    assert queue_tags(queue) == (*tags, "work_queue_priority:1")
    assert queue_tags(queue, with_status=True) == (*tags, "work_queue_priority:1", "work_queue_status:NOT_READY")
    assert queue_tags(WorkQueue(id="q"), with_status=True) == ("work_queue_id:q",)


@pytest.mark.parametrize(
    ("resource_id", "kind_and_id"),
    [
        ("prefect.flow-run.6f4d", ("flow-run", "6f4d")),
        ("prefect.work-pool.a.b", ("work-pool", "a.b")),
        ("prefect.flow-run.", None),
        ("prefect.flow-run", None),
        ("prefect", None),
        ("acme.flow-run.6f4d", None),
        ("", None),
        (None, None),
    ],
)
def test_a_resource_of_prefect_is_told_by_its_kind_and_id(
    resource_id: str | None, kind_and_id: tuple[str, str] | None
) -> None:
    assert resource_kind_and_id(resource_id) == kind_and_id


def test_related_resources_are_told_by_their_roles_the_first_of_each() -> None:
    resources: list[Mapping[str, str | None]] = [
        related("flow", "f", "etl"),
        related("tag", "nightly"),
        related("tag", "eu"),
        {"prefect.resource.id": "prefect.work-pool.p"},
        {"prefect.resource.id": "acme.thing.1", "prefect.resource.role": "thing"},
        {"prefect.resource.id": None, "prefect.resource.role": "nothing"},
        {},
    ]
    assert related_by_role(resources) == {"flow": ("f", "etl"), "tag": ("nightly", None)}
