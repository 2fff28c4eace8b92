"""The fault laboratory: nothing is lost and nothing comes twice, whatever happens between the check and the server."""

from __future__ import annotations

import pytest

from lab.experiment import Outcome, run_experiment

SEED = 20240
# What no event tells, a task run tells only where it can be asked for by its end.
DROPPED = pytest.param(0.1, 0.1, marks=pytest.mark.needs("ends of task runs"))


@pytest.mark.needs("a database file")
@pytest.mark.needs("work pools of runs without a deployment")
@pytest.mark.parametrize(("rate", "drop_rate"), [(0.0, 0.0), DROPPED, (0.6, 0.0)])
def test_all_totals_equal_the_truth_in_the_servers_database_whatever_share_of_the_requests_is_spoilt(
    rate: float, drop_rate: float
) -> None:
    outcome = run_experiment(SEED, rate, drop_rate)
    assert outcome.is_exact, f"{outcome.line()}\n{outcome.details()}"
    assert did_what_it_should(outcome), outcome.line()


def did_what_it_should(outcome: Outcome) -> bool:
    """Whether there was enough to be counted, and faults where there should be some and nothing wrong where not."""
    counts, samples, events = outcome.truth.size
    enough = len(outcome.results) >= 30 and min(counts, samples, events) >= 168
    return enough and (outcome.dealt.total() > 0) == (outcome.rate > 0) == bool(outcome.complaints)
