"""What is to be submitted of runs in memory, by the laboratory's own definitions of the metrics."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from datetime import datetime

from lab.definitions import Entered, first_end, of_flow_run, of_task_run

from .builders import T0
from .live_runs import DEPLOYMENT, LiveFlowRun, LiveTaskRun, Run

# Metric, tags, and a histogram's sample to the millisecond: what is counted has none.
Key = tuple[str, tuple[str, ...], float | None]


def truth(flow_runs: Iterable[LiveFlowRun], task_runs: Iterable[LiveTaskRun]) -> Counter[Key]:
    """What is to be submitted of these runs in all check runs together."""
    total: Counter[Key] = Counter()
    for run in flow_runs:
        found = of_flow_run(entered(run), since_t0(run.expected_start))
        total.update(key(f"flow_runs.{metric}", flow_run_tags(run), value) for metric, value in found)
    for task in task_runs:
        upstream_ends = [end for upstream in task.upstream if (end := first_end(entered(upstream))) is not None]
        found = of_task_run(entered(task), since_t0(task.expected_start), upstream_ends)
        tags = flow_run_tags(task.flow_run) | {
            f"task_key:{task.key}",
            f"task_name:{re.sub('-[0-9a-f]+$', '', task.key)}",
        }
        total.update(key(f"task_runs.{metric}", tags, value) for metric, value in found)
    return total


def entered(run: Run) -> list[Entered]:
    return [Entered(since_t0(state.timestamp), state.type, state.name or "") for state in run.states]


def since_t0(moment: datetime) -> float:
    return (moment - T0).total_seconds()


def key(metric: str, tags: Iterable[str], value: float | None) -> Key:
    return metric, tuple(sorted(tags)), None if value is None else round(value, 3)


def flow_run_tags(run: LiveFlowRun) -> set[str]:
    tags = {f"flow_id:{run.flow.id}", f"flow_name:{run.flow.name}"}
    return tags | (
        {f"deployment_id:{DEPLOYMENT.id}", f"deployment_name:{DEPLOYMENT.name}"} if run.deployment else set()
    )
