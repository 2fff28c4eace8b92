"""What identifies a server: under its name, counting goes on wherever it is, and instances leave each other alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme

from lab.agent import Agent, CheckRunResult, datadog_agent
from lab.agent_files import AgentFiles
from lab.ports import HOST
from lab.prefect_api import PrefectApi
from lab.proxy import Proxy, terminating
from lab.server import PrefectServer

from ..conftest import AgentFactory
from .stage import Stage
from .test_stored_state import assert_counts, complete_a_run, run_well

NAME = "prod"
DAY_SECONDS = 86400.0
MOVES_IN_A_ROW = 5
# A start from one collection interval ago is then one from now.
FROM_NOW = 0.001
FILTERS = ("work_pool_names", "work_queue_names", "deployment_names")
# As Autodiscovery has it in one pod, and in the next.
IN_ONE_POD = {"tags": ["image_tag:3.1", "pod_name:prefect-7d9f"], "auth_string": "datadog:old"}
IN_ANOTHER_POD = {"tags": ["pod_name:prefect-c41a", "kube_ownerref:5", "image_tag:3.2"], "api_key": "pnu_new"}

Options = dict[str, Any]
# Makes the instance's options for the same server under another address.
Move = Callable[[ExitStack, PrefectServer, trustme.CA, str], Options]


@pytest.fixture
def stage(api: PrefectApi) -> Stage:
    return Stage(api)


@pytest.fixture(autouse=True)
def files(clean_agent: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AgentFiles:
    """The Agent's run folder, in place of the stub's memory."""
    files = AgentFiles(tmp_path / "run")
    monkeypatch.setattr(datadog_agent, "read_persistent_cache", files.read)
    monkeypatch.setattr(datadog_agent, "write_persistent_cache", files.write)
    monkeypatch.setitem(datadog_agent._config, "run_path", str(files.run_path))
    return files


def to_another_port(stack: ExitStack, server: PrefectServer, *_: object) -> Options:
    return {"prefect_url": f"{stack.enter_context(Proxy(server.url)).url}/api"}


def to_another_path(stack: ExitStack, server: PrefectServer, *_: object) -> Options:
    return {"prefect_url": f"{stack.enter_context(Proxy(server.url, prefix='/team')).url}/team/api"}


def to_another_host(_: ExitStack, server: PrefectServer, *__: object) -> Options:
    return {"prefect_url": server.api_url.replace(HOST, "localhost")}


def to_tls(stack: ExitStack, server: PrefectServer, authority: trustme.CA, authority_file: str) -> Options:
    proxy = stack.enter_context(Proxy(server.url, tls=terminating(authority.issue_cert(HOST))))
    return {"prefect_url": f"{proxy.url}/api", "tls_ca_cert": authority_file}


def nowhere(*_: object) -> Options:
    return {}


MOVES: dict[str, tuple[Move, Options, Options]] = {
    "port": (to_another_port, {}, {}),
    "path": (to_another_path, {}, {}),
    "host": (to_another_host, {}, {}),
    "scheme": (to_tls, {}, {}),
    "credentials": (nowhere, {"username": "u", "password": "old"}, {"headers": {"Authorization": "Bearer new"}}),
    "tags": (nowhere, {"tags": ["image_tag:3.1", "region:eu"]}, {"tags": ["image_tag:3.2", "region:eu"]}),
    "service": (nowhere, {"service": "prefect"}, {"service": "prefect-server"}),
    "all of a pod": (to_another_port, IN_ONE_POD, IN_ANOTHER_POD),
}


@pytest.fixture(params=MOVES)
def moved(
    request: pytest.FixtureRequest, server: PrefectServer, authority: trustme.CA, authority_file: str
) -> Iterator[tuple[Options, Options]]:
    """The options of an instance before and after the server moved."""
    move, before, after = MOVES[request.param]
    with ExitStack() as stack:
        yield before, {**after, **move(stack, server, authority, authority_file)}


def test_under_its_name_a_server_that_moves_is_counted_on_once(
    stage: Stage, agent: AgentFactory, moved: tuple[Options, Options]
) -> None:
    before, after = moved
    first = agent(collect_events=True, server_name=NAME, **before, **stage.only_this)
    run_well(first)
    complete_a_run(stage)
    assert_counts([run_well(first)], times=1)
    # While it moves.
    complete_a_run(stage)
    second = agent(collect_events=True, server_name=NAME, **after, **stage.only_this)
    assert_counts([run_well(second)], times=1)
    second.restart()
    assert_counts([run_well(second)], times=0)


def test_a_server_that_moves_again_and_again_leaves_the_files_of_one(
    server: PrefectServer, stage: Stage, agent: AgentFactory, files: AgentFiles
) -> None:
    results: list[CheckRunResult] = []
    known: set[str] = set()
    for number in range(MOVES_IN_A_ROW):
        with Proxy(server.url) as proxy:
            options = {"prefect_url": f"{proxy.url}/api", "tags": [f"pod:{number}"], **stage.only_this}
            a = agent(collect_events=True, server_name=NAME, **options)
            run_well(a)
            complete_a_run(stage)
            results += [run_well(a), run_well(a)]
            known |= files.names()
    assert_counts(results, times=MOVES_IN_A_ROW)
    assert files.names() == known
    assert files.owned_by(a.check.persistent_cache_id()) == known


@pytest.mark.parametrize("change", ["port", "path", "host", "tags"])
def test_without_a_name_another_address_or_another_tag_is_a_new_start_and_the_old_one_can_be_gone_back_to(
    stage: Stage, agent: AgentFactory, server: PrefectServer, change: str
) -> None:
    move, before, after = MOVES[change]
    common: Options = {"collect_events": True, "min_collection_interval": FROM_NOW, **stage.only_this}
    with ExitStack() as stack:
        first = agent(**common, **before)
        run_well(first)
        complete_a_run(stage)
        second = agent(**common, **after, **move(stack, server, trustme.CA(), ""))
        assert_counts([run_well(second)], times=0)
        complete_a_run(stage)
        assert_counts([run_well(second), run_well(second)], times=1)
        back = agent(**common, **before)
        assert_counts([run_well(back), run_well(back)], times=2)


@pytest.mark.parametrize("change", ["credentials", "service"])
def test_without_a_name_other_credentials_are_counted_on(stage: Stage, agent: AgentFactory, change: str) -> None:
    _, before, after = MOVES[change]
    first = agent(collect_events=True, **before, **stage.only_this)
    run_well(first)
    complete_a_run(stage)
    second = agent(collect_events=True, **after, **stage.only_this)
    assert_counts([run_well(second), run_well(second)], times=1)


def test_another_name_is_a_new_start(stage: Stage, agent: AgentFactory) -> None:
    common: Options = {"collect_events": True, "min_collection_interval": FROM_NOW, **stage.only_this}
    first = agent(server_name=NAME, **common)
    run_well(first)
    complete_a_run(stage)
    assert_counts([run_well(agent(server_name="staging", **common))], times=0)
    assert_counts([run_well(first)], times=1)


@pytest.mark.parametrize("option", FILTERS)
def test_another_filter_is_a_new_start_under_the_same_name(stage: Stage, agent: AgentFactory, option: str) -> None:
    common: Options = {"collect_events": True, "min_collection_interval": FROM_NOW, "server_name": NAME}
    narrow = {**stage.only_this, option: {"include": [f"^{stage.name}"], "exclude": ["^nothing$"]}}
    first = agent(**common, **stage.only_this)
    run_well(first)
    complete_a_run(stage)
    assert_counts([run_well(agent(**common, **narrow))], times=0)
    first.restart()
    assert_counts([run_well(first), run_well(first)], times=1)


@pytest.mark.parametrize("named", [{}, {"server_name": NAME}], ids=["no name", "a name"])
def test_instances_with_filters_of_their_own_count_each_their_runs_once(
    api: PrefectApi, agent: AgentFactory, named: Options
) -> None:
    stages = [Stage(api), Stage(api)]
    agents = [agent(collect_events=True, **named, **stage.only_this) for stage in stages]
    results: list[list[CheckRunResult]] = [[], []]
    for number in range(3):
        for of_one, watching in zip(results, agents, strict=True):
            of_one.append(run_well(watching))
        for stage in stages[: 1 + number % 2]:
            complete_a_run(stage)
        # Side by side, and in turn after restarts.
        for of_one, watching in reversed(list(zip(results, agents, strict=True))):
            watching.restart()
            of_one.append(run_well(watching))
    assert_counts(results[0], times=3)
    assert_counts(results[1], times=1)


def test_instances_with_tags_of_their_own_count_each_all_runs_once(stage: Stage, agent: AgentFactory) -> None:
    teams = [agent(collect_events=True, tags=[f"team:{team}"], **stage.only_this) for team in ("data", "ml")]
    results: list[list[CheckRunResult]] = [[run_well(team)] for team in teams]
    for _ in range(2):
        complete_a_run(stage)
        for of_one, team in zip(results, teams, strict=True):
            team.restart()
            of_one += [run_well(team), run_well(team)]
    for of_one in results:
        assert_counts(of_one, times=2)


def counts_in(files: Collection[str]) -> list[str]:
    """The files of these that have been written twice, in turn: those with counts."""
    return [file for file in files if "_deployments_" not in file]


def id_in_version_3_0(instance: Options) -> str:
    """How version 3.0.0 of the check named the files of an instance whose URL is written as it says it."""

    def patterns(names: dict[str, list[str]]) -> list[list[str] | None]:
        include = names.get("include")
        return [sorted(include) if include else None, sorted(names.get("exclude") or [])]

    filters = [patterns(instance.get(option, {})) for option in FILTERS]
    counted = [instance["prefect_url"], filters, sorted(instance.get("tags", []))]
    return hashlib.sha256(json.dumps(counted).encode()).hexdigest()[:16]


@pytest.fixture
def old(server: PrefectServer, stage: Stage, agent: AgentFactory, files: AgentFiles) -> Options:
    """An instance of which version 3.0.0 counted a run and left its files, and another run came since."""
    instance = {"prefect_url": server.api_url, "tags": ["team:data", "region:eu"], **stage.only_this}
    first = agent(collect_events=True, **instance)
    run_well(first)
    complete_a_run(stage)
    assert_counts([run_well(first), run_well(first)], times=1)
    files.leave_only(first.check.persistent_cache_id(), id_in_version_3_0(instance))
    assert len(counts_in(files.owned_by(id_in_version_3_0(instance)))) == 8
    complete_a_run(stage)
    return {**instance, "collect_events": True}


@pytest.mark.parametrize("named", [{}, {"server_name": NAME}], ids=["no name", "a name"])
def test_what_an_older_version_counted_is_counted_on_and_its_files_are_used_up(
    stage: Stage, agent: AgentFactory, files: AgentFiles, old: Options, named: Options
) -> None:
    new = agent(**old, **named)
    assert_counts([run_well(new), run_well(new)], times=1)
    complete_a_run(stage)
    new.restart()
    assert_counts([run_well(new), run_well(new)], times=1)
    now, before = new.check.persistent_cache_id(), id_in_version_3_0(old)
    assert len(counts_in(files.owned_by(now))) == 8
    assert files.names() == files.owned_by(now)
    assert (now == before) or files.owned_by(before) == set()


def test_what_an_older_version_counted_is_counted_on_for_an_instance_with_a_name_of_its_own(
    stage: Stage, agent: AgentFactory, files: AgentFiles, old: Options
) -> None:
    def with_name(watching: Agent) -> Agent:
        # The Agent puts an instance's `name` or `namespace` into the check's id, and so in front of its files' names.
        watching.check_id = watching.check_id.replace("prefect:", "prefect:mine:")
        watching.restart()
        return watching

    before = id_in_version_3_0(old)
    files.leave_only(before, f"mine{before}")
    new = with_name(agent(**old, server_name=NAME, name="mine"))
    assert_counts([run_well(new), run_well(new)], times=1)
    complete_a_run(stage)
    moved = with_name(agent(**{**old, "tags": ["team:ml"]}, server_name=NAME, name="mine"))
    assert_counts([run_well(moved)], times=1)
    assert files.owned_by(f"mine{before}") == set()


def test_the_files_of_an_older_version_are_taken_over_only_once(
    stage: Stage, agent: AgentFactory, files: AgentFiles, old: Options
) -> None:
    new = agent(**old, server_name=NAME)
    assert_counts([run_well(new), run_well(new)], times=1)
    for later in ({"server_name": "staging"}, {}):
        other = agent(**old, **later, min_collection_interval=FROM_NOW)
        assert_counts([run_well(other)], times=0)
    complete_a_run(stage)
    assert_counts([run_well(new)], times=1)


def test_a_name_that_counts_already_does_not_go_back_to_older_files_of_an_address(
    server: PrefectServer, stage: Stage, agent: AgentFactory, old: Options
) -> None:
    with Proxy(server.url) as proxy:
        elsewhere = {**old, "prefect_url": f"{proxy.url}/api", "min_collection_interval": FROM_NOW}
        assert_counts([run_well(agent(**elsewhere, server_name=NAME))], times=0)
    complete_a_run(stage)
    here = agent(**old, server_name=NAME)
    assert_counts([run_well(here), run_well(here)], times=1)


def test_files_of_addresses_that_nobody_has_used_for_long_do_not_pile_up(
    server: PrefectServer, stage: Stage, agent: AgentFactory, files: AgentFiles
) -> None:
    neighbours = [files.run_path / "postgres" / "0123456789abcdef_flow_runs_0", files.run_path / "prefect" / "notes"]
    for path in neighbours:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("not ours")
    here = agent(collect_events=True, **stage.only_this)
    run_well(here)
    left = []
    for _ in range(3):
        with Proxy(server.url) as proxy:
            a = agent(collect_events=True, prefect_url=f"{proxy.url}/api", **stage.only_this)
            run_well(a)
            left.append(a.check.persistent_cache_id())
    for identity, days in zip(left, (60, 30, 2), strict=True):
        assert files.owned_by(identity)
        files.make_older(files.owned_by(identity), days * DAY_SECONDS)
    files.make_older({"notes"}, 60 * DAY_SECONDS)
    complete_a_run(stage)
    here.restart()
    assert_counts([run_well(here), run_well(here)], times=1)
    assert [bool(files.owned_by(identity)) for identity in left] == [False, False, True]
    assert [path.read_text() for path in neighbours] == ["not ours", "not ours"]
