"""`make bench`: what a check run costs on large servers, beside reading everything as published integrations do.

`SIZES` are numbers of deployments (1000,10000), each with 20 planned runs; `RUNS` is how many check runs are measured
in steady state (12), and `STORM` how many with many events (40). Seconds are this machine's; ratios within one run of
this program are what counts.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil
import requests

from .command import INTERRUPTED, INTERRUPTED_CODE, begin_command
from .errors import LabError
from .filling import Size, fill
from .metered import Cost, Metered
from .prefect_api import PrefectApi, iso, run_state
from .server import FAST_EVENTS, PrefectServer
from .slow_network import SlowNetwork
from .task_run import ClientTaskRun
from .waiting import wait_until

DEFAULT_SIZES = "1000,10000"
DEFAULT_RUNS = 12
RUNS_A_TICK = 8
TICK_SECONDS = 15.0
BASELINE_RUNS = 2
POOL = "bench"
MOST_LEARNING_RUNS = 250
# Check runs after a restart in which all must be known, and after changes meanwhile.
RESTART_RUNS, CHANGED_RUNS = 3, 6
CHANGED_SHARE = 100
EVENTS = 1_500
DEFAULT_STORM = 40
# The first and the last of a storm that are compared.
ENDS_OF_STORM = 10
LOOKBACK = timedelta(hours=1)
EVENTS_AT_ONCE = 100
EVENTS_IN_A_PAGE = 50
POOLS, QUEUES_A_POOL, WORKERS_A_POOL = 50, 20, 10
NETWORK_SECONDS = 0.02

COLUMNS = (
    ("requests", lambda cost: cost.requests, "{:.0f}"),
    ("kB", lambda cost: cost.sent_and_received / 1000, "{:,.1f}"),
    ("wall s", lambda cost: cost.wall, "{:.3f}"),
    ("server CPU s", lambda cost: cost.server_cpu, "{:.3f}"),
    ("client CPU s", lambda cost: cost.client_cpu, "{:.3f}"),
    ("MiB", lambda cost: cost.memory, "{:.0f}"),
    ("kB stored", lambda cost: cost.stored / 1000, "{:,.1f}"),
)  # type: tuple[tuple[str, Callable[[Cost], float], str], ...]


def main() -> int:
    """Measure all, print the table, and return the exit code: 0, 1 after one sentence on stderr, 130."""
    begin_command()
    try:
        _bench(os.environ)
    except (LabError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return INTERRUPTED_CODE
    return 0


def _bench(environment: Mapping[str, str]) -> None:
    sizes = [Size(int(number)) for number in (environment.get("SIZES") or DEFAULT_SIZES).split(",")]
    runs = int(environment.get("RUNS") or DEFAULT_RUNS)
    print(f"{datetime.now(UTC):%Y-%m-%d}, {psutil.cpu_count()} cores, Python {sys.version.split()[0]}, SQLite")
    idle = _bench_idle(runs)
    smaller: Cost | None = None
    for size in sizes:
        smaller = _bench_size(size, runs, idle, smaller)
    _bench_workers()
    _bench_events(int(environment.get("STORM") or DEFAULT_STORM))


def _bench_idle(runs: int) -> Cost:
    with PrefectServer() as server:
        api = PrefectApi(server.api_url)
        api.create_work_pool(POOL)
        api.create_deployment("idle", api.create_flow("idle")["id"], POOL, "default")
        with Metered({"url": server.api_url}, server.pid) as check:
            costs = [check.run() for _ in range(runs + 4)][4:]
        _print_table("An idle server, with a pool and a deployment", {"check run": costs})
        _goal("requests", _median(costs).requests, 8)
        _goal("kB", _median(costs).sent_and_received / 1000, 20)
        return _median(costs)


def _bench_size(size: Size, runs: int, idle: Cost, smaller: Cost | None) -> Cost:
    with PrefectServer(env=FAST_EVENTS) as server:
        api = PrefectApi(server.api_url)
        api.create_work_pool(POOL)
        print(f"\nFilling a server: {size} ...", flush=True)
        fill(server, size, POOL)
        baseline = []
        if smaller is None:
            with Metered({"url": server.api_url, "everything": True}, server.pid) as everything:
                baseline = [everything.run() for _ in range(BASELINE_RUNS)]
        with Metered({"url": server.api_url}, server.pid) as check:
            learning = _learn(check)
            steady = _steady(check, api, runs)
            truth = _planned(api)
            check.restart()
            restarted = [check.run() for _ in range(RESTART_RUNS)]
            known_again = _first_exact(restarted, api)
            check.restart()
            _change(api, size.deployments // CHANGED_SHARE)
            after_changes = [check.run() for _ in range(CHANGED_RUNS)]
            exact_again = _first_exact(after_changes, api)
    rows = {"check run, steady": steady, "check run, learning": learning, "after a restart": restarted}
    rows["after changes"] = after_changes
    _print_table(str(size), {"reading everything": baseline, **rows} if baseline else rows)
    seen = steady[-1].gauges["prefect.server.flow_runs.scheduled"]
    print(f"  all known after {len(learning)} check runs; scheduled in the last: {seen:,.0f}, by the server {truth:,}")
    print(f"  after a restart, all is known in check run {known_again}, with 1 percent changed in {exact_again}")
    _goal("check runs of the initial load", len(learning), 60)
    _goal("seconds of the longest", max(cost.wall for cost in learning), 5)
    cpu = statistics.mean(cost.server_cpu for cost in learning) / TICK_SECONDS
    _goal("of the interval, the server's CPU on average", cpu, 1 / 4)
    _goal("check runs after a restart", known_again, RESTART_RUNS)
    _goal("requests in the first three", sum(cost.requests for cost in restarted), 40)
    _goal("check runs after a restart and changes", exact_again, CHANGED_RUNS)
    _goal("MB stored", max(cost.stored for cost in [*learning, *steady, *restarted]) / 1e6, 1)
    usual, worst = _median(steady), _worst([*steady, *learning])
    if baseline:
        all_of_it = _median(baseline)
        for name, of in COLUMNS[1][:2], COLUMNS[2][:2], COLUMNS[3][:2]:
            _goal(f"{name}, of the baseline's", of(usual) / of(all_of_it), 1 / 20)
            _goal(f"{name}, worst run, of the baseline's", of(worst) / of(all_of_it), 1 / 4)
        _goal("requests", usual.requests, 20)
    if smaller is not None:
        for name, of in COLUMNS[1][:2], COLUMNS[2][:2], COLUMNS[3][:2]:
            _goal(f"{name}, of the smaller server's", of(usual) / of(smaller), 1.5)
        _goal("MiB more than on an idle server", max(cost.memory for cost in steady) - idle.memory, 100)
    return usual


def _learn(check: Metered) -> list[Cost]:
    """Check runs until all is known."""
    costs = []
    for _ in range(MOST_LEARNING_RUNS):
        costs.append(check.run())
        if not costs[-1].warnings:
            return costs
    raise LabError(f"After {MOST_LEARNING_RUNS} check runs: {costs[-1].warnings}")


def _planned(api: PrefectApi) -> int:
    return int(api.post("flow_runs/count", {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}))


def _first_exact(costs: Sequence[Cost], api: PrefectApi) -> float:
    """The first of these check runs, from 1, in which as much is known as the server has now; infinite if none."""
    truth = api.post("deployments/count", {}), _planned(api)
    for number, cost in enumerate(costs, 1):
        planned = cost.gauges.get("prefect.server.flow_runs.scheduled")
        if (cost.series.get("prefect.server.deployment.is_ready"), planned) == truth and not cost.warnings:
            return number
    return float("inf")


def _change(api: PrefectApi, number: int) -> None:
    """Pause, delete, create and plan, each for a fourth of so many deployments."""
    part = max(1, number // 4)
    found = api.post("deployments/filter", {"limit": 3 * part, "offset": RUNS_A_TICK})
    tomorrow = run_state("SCHEDULED", scheduled_time=datetime.now(UTC) + timedelta(days=1))
    for deployment in found[:part]:
        api.pause_deployment(deployment["id"])
    for deployment in found[part : 2 * part]:
        api.delete_deployment(deployment["id"])
    for place, deployment in enumerate(found[2 * part :]):
        api.create_deployment_run(deployment["id"], tomorrow)
        api.create_deployment(f"new-{place}", deployment["flow_id"], POOL, "default")


def _steady(check: Metered, api: PrefectApi, runs: int) -> list[Cost]:
    """A check run a tick, in which so many runs come, as many start and as many end."""
    deployments = api.post("deployments/filter", {"limit": RUNS_A_TICK})
    coming: list[str] = []
    running: list[str] = []
    costs = []
    next_tick = time.monotonic()
    for number in range(runs + 2):
        for run_id in running:
            api.set_flow_run_state(run_id, "COMPLETED", force=True)
        running = coming
        for run_id in running:
            api.set_flow_run_state(run_id, "RUNNING", force=True)
        coming = [str(api.create_deployment_run(deployment["id"])["id"]) for deployment in deployments]
        next_tick += TICK_SECONDS
        time.sleep(max(0.0, next_tick - time.monotonic()))
        cost = check.run()
        if number >= 2:
            costs.append(cost)
    return costs


def _bench_workers() -> None:
    print(f"\nMaking {POOLS} pools, {POOLS * QUEUES_A_POOL:,} queues, {POOLS * WORKERS_A_POOL} workers ...", flush=True)
    with PrefectServer() as server:
        api = PrefectApi(server.api_url)
        for pool in range(POOLS):
            api.create_work_pool(f"pool-{pool}")
            for queue in range(QUEUES_A_POOL - 1):
                api.create_work_queue(f"pool-{pool}", f"queue-{queue}")
            for worker in range(WORKERS_A_POOL):
                api.heartbeat(f"pool-{pool}", f"worker-{worker}")
        with SlowNetwork(server.url, NETWORK_SECONDS) as network:
            for name, url in ("loopback", server.api_url), (f"{NETWORK_SECONDS:g} s away", f"{network.url}/api"):
                seconds = {}
                for at_a_time in (1, 0):
                    with Metered({"url": url, "at_a_time": at_a_time}, server.pid) as check:
                        costs = [check.run() for _ in range(6)][1:]
                    seconds[at_a_time] = statistics.median(cost.workers_seconds for cost in costs)
                print(f"Workers, {name}: one after the other {seconds[1]:.3f} s, side by side {seconds[0]:.3f} s")
                _goal(f"side by side, {name}", seconds[0] / seconds[1], 1 / 3)


def _bench_events(runs: int) -> None:
    print(f"\nSending {EVENTS:,} events of task runs before each of {runs} check runs ...", flush=True)
    with PrefectServer(env=FAST_EVENTS) as server:
        api = PrefectApi(server.api_url)
        flow_run = api.create_flow_run(api.create_flow("mapped")["id"])["id"]
        ratios, costs = [], []
        with Metered({"url": server.api_url}, server.pid) as check:
            check.run()
            for _ in range(runs):
                _send_events(api, flow_run)
                pages_before = _read_pages(server.api_url)
                costs.append(check.run())
                pages_seconds = (pages_before + _read_pages(server.api_url)) / 2
                ratios.append(costs[-1].wall / pages_seconds)
                print(f"Events: check run {costs[-1].wall:.3f} s, their pages {pages_seconds:.3f} s", flush=True)
        _print_table(f"{EVENTS:,} events before each", {"check run": costs})
        _goal("of what the server takes for the pages", statistics.median(ratios), 1.3)
        first, last = ratios[:ENDS_OF_STORM], ratios[-ENDS_OF_STORM:]
        _goal("the last ones, of the first ones", statistics.median(last) / statistics.median(first), 1.2)
        memory = [cost.memory for cost in costs[len(costs) // 4 :]]
        _goal("MiB more at the end than after a quarter", memory[-1] - memory[0], 10)
        _goal("MB stored", max(cost.stored for cost in costs) / 1e6, 1)


def _send_events(api: PrefectApi, flow_run: str) -> None:
    since = datetime.now(UTC)
    tasks = [ClientTaskRun(api, "mapped", flow_run) for _ in range(EVENTS // 2)]
    events: list[dict[str, Any]] = [task.prepare(state) for task in tasks for state in ("RUNNING", "COMPLETED")]
    for first in range(0, len(events), EVENTS_AT_ONCE):
        api.post_events(events[first : first + EVENTS_AT_ONCE])
    api.wait_for_events([events[-1]["id"]])
    criteria = {"event": {"prefix": ["prefect.task-run."]}, "occurred": {"since": iso(since)}}
    body = {"filter": criteria, "limit": 0}
    wait_until(lambda: api.post("events/filter", body)["total"] >= EVENTS, 120, "The last of the events")


def _read_pages(api_url: str) -> float:
    """What the server takes to answer the pages of the newest events, asked for as the check does, in seconds."""
    seconds = 0.0
    names = {"prefix": ["prefect.task-run."], "exclude_name": ["prefect.task-run.Pending"]}
    now = datetime.now(UTC)
    occurred = {"since": iso(now - LOOKBACK), "until": iso(now + LOOKBACK)}
    criteria = {"event": names, "occurred": occurred, "order": "DESC"}
    with requests.Session() as session:
        session.trust_env = False
        answer = session.post(f"{api_url}/events/filter", json={"filter": criteria, "limit": EVENTS_IN_A_PAGE})
        seconds += answer.elapsed.total_seconds()
        for _ in range(EVENTS // EVENTS_IN_A_PAGE - 1):
            answer = session.get(answer.json()["next_page"])
            seconds += answer.elapsed.total_seconds()
    return seconds


# The table


def _print_table(title: str, rows: Mapping[str, Sequence[Cost]]) -> None:
    print(f"\n{title}")
    print("  " + " ".join([f"{'median / worst':22}", *(f"{name:>20}" for name, _, _ in COLUMNS)]))
    for name, costs in rows.items():
        cells = []
        for _, of, form in COLUMNS:
            values = [of(cost) for cost in costs]
            cells.append(f"{form.format(statistics.median(values))} / {form.format(max(values))}")
        print("  " + " ".join([f"{name:22}", *(f"{cell:>20}" for cell in cells)]), flush=True)


def _goal(what: str, value: float, most: float) -> None:
    verdict = "met" if value <= most else "NOT MET"
    print(f"  {what}: {value:.3g}, goal at most {most:.3g}: {verdict}", flush=True)


def _median(costs: Sequence[Cost]) -> Cost:
    return _of(costs, statistics.median)


def _worst(costs: Sequence[Cost]) -> Cost:
    return _of(costs, max)


def _of(costs: Sequence[Cost], choose: Callable[[list[float]], float]) -> Cost:
    return Cost(
        wall=choose([cost.wall for cost in costs]),
        client_cpu=choose([cost.client_cpu for cost in costs]),
        server_cpu=choose([cost.server_cpu for cost in costs]),
        requests=choose([cost.requests for cost in costs]),
        sent_and_received=choose([cost.sent_and_received for cost in costs]),
        memory=choose([cost.memory for cost in costs]),
        stored=choose([cost.stored for cost in costs]),
    )


if __name__ == "__main__":
    sys.exit(main())
