"""Which flow runs wait in their work queue, and since when."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from datadog_checks.prefect.api.models import FlowRun
from datadog_checks.prefect.collectors.work_queues import waiting_by_queue
from datadog_checks.prefect.mirror.flow_runs import waiting_since

from .builders import T0, after, flow_run

NOW = after(600)


def scheduled(name: str = "Scheduled", next_start: datetime | None = T0, **fields: Any) -> FlowRun:
    return flow_run(
        state_type="SCHEDULED", state_name=name, next_scheduled_start_time=next_start, **{"run_count": 0, **fields}
    )


def test_a_run_that_is_ten_minutes_late_has_waited_for_ten_minutes() -> None:
    assert waiting_since(scheduled("Late"), NOW) == T0


@pytest.mark.parametrize(("next_start", "since"), [(NOW, NOW), (after(600.000001), None), (None, None)])
def test_a_scheduled_run_waits_from_its_next_scheduled_start_on(
    next_start: datetime | None, since: datetime | None
) -> None:
    assert waiting_since(scheduled(next_start=next_start, expected_start_time=T0), NOW) == since


def test_a_run_that_is_put_off_waits_since_its_new_time_not_since_the_expected_one() -> None:
    assert waiting_since(scheduled("Resuming", after(500), expected_start_time=T0), NOW) == after(500)


@pytest.mark.parametrize(("expected", "since"), [(T0, T0), (NOW, NOW), (after(601), None), (None, None)])
def test_a_run_that_waits_for_a_concurrency_slot_waits_since_its_expected_start(
    expected: datetime | None, since: datetime | None
) -> None:
    run = scheduled("AwaitingConcurrencySlot", after(630), expected_start_time=expected)
    assert waiting_since(run, NOW) == since


@pytest.mark.parametrize(
    ("details", "expected", "since"),
    [
        ({"scheduled_time": after(60)}, T0, after(60)),
        ({"scheduled_time": after(601)}, T0, None),
        ({"scheduled_time": None}, T0, T0),
        (None, T0, T0),
        (None, NOW, NOW),
        (None, after(601), None),
        (None, None, None),
    ],
    ids=["scheduled", "for later", "null", "no details", "due now", "expected later", "nothing known"],
)
def test_a_pending_run_waits_since_it_was_scheduled_for_else_since_its_expected_start(
    details: dict[str, object] | None, expected: datetime | None, since: datetime | None
) -> None:
    run = flow_run(state_type="PENDING", state={"state_details": details}, expected_start_time=expected)
    assert waiting_since(run, NOW) == since


def test_a_pending_run_without_a_state_object_waits_since_its_expected_start() -> None:
    assert waiting_since(flow_run(state_type="PENDING", state_name="Submitting", expected_start_time=T0), NOW) == T0


@pytest.mark.parametrize("state_type", ["RUNNING", "PAUSED", "CANCELLING", "COMPLETED", "CANCELLED", None])
def test_a_run_in_any_other_state_does_not_wait(state_type: str | None) -> None:
    run = flow_run(state_type=state_type, next_scheduled_start_time=T0, expected_start_time=T0)
    assert waiting_since(run, NOW) is None


@pytest.mark.parametrize(
    ("name", "policy", "waits"),
    [
        ("AwaitingRetry", {"retry_type": "in_process"}, False),
        ("AwaitingRetry", {"retry_type": "reschedule"}, True),
        # Asked for in the UI, it is a matter for a worker.
        ("AwaitingRetry", {"retry_type": None}, True),
        ("AwaitingRetry", {}, False),
        ("AwaitingRetry", None, False),
        ("Late", {"retry_type": "in_process"}, False),
        ("Late", {"retry_type": None}, True),
        ("Late", {}, True),
        ("Late", None, True),
    ],
)
def test_a_retry_in_the_runs_own_process_does_not_wait_in_the_queue(
    name: str, policy: dict[str, str | None] | None, waits: bool
) -> None:
    assert (waiting_since(scheduled(name, empirical_policy=policy), NOW) is not None) is waits


def test_waiting_runs_are_told_by_the_id_of_their_queue() -> None:
    runs = [
        scheduled("Late", after(60), work_queue_id="q1", work_queue_name="default"),
        flow_run(state_type="PENDING", expected_start_time=after(30), work_queue_id="q1", work_queue_name="default"),
        scheduled("Late", after(90), work_queue_id="q2", work_queue_name="default"),
        scheduled(next_start=after(3600), work_queue_id="q2"),
        flow_run(state_type="RUNNING", expected_start_time=T0, work_queue_id="q3"),
        scheduled("Late", T0, work_queue_id=None),
    ]
    assert waiting_by_queue(runs, NOW) == {"q1": [after(60), after(30)], "q2": [after(90)]}


def test_where_nothing_runs_nothing_waits() -> None:
    assert waiting_by_queue([], NOW) == {}
