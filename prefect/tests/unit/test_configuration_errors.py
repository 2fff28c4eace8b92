"""Every malformed option is a configuration error that names it, before anything is asked of the server."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest

from datadog_checks.prefect import PrefectCheck
from lab.agent import Agent, CheckRunResult

URL = "http://prefect.test:4200/api"
BAD_TIMEOUTS: tuple[object, ...] = ("soon", 0, -1)
MALFORMED: dict[str, tuple[object, ...]] = {
    "late_start_grace_seconds": (-1, -0.001, "soon", [], math.inf, math.nan, "inf", 1e300),
    "worker_stale_after_seconds": (-1, 0, "soon", {}, math.inf, math.nan, "inf", 1e300),
    "event_lookback_seconds": (-1, 0, 59, "soon", [], math.inf, math.nan, 604801),
    "max_catch_up_seconds": (-1, 0, 59, "soon", [], math.inf, math.nan, 604801),
    "collect_events": ("perhaps", 2, []),
    "custom_headers": ("X: 1", ["X"], {"X": 5}, {"X": None}),
    "tags": ("env:prod", 5, [5], {"env": "prod"}),
    "timeout": BAD_TIMEOUTS,
    "connect_timeout": BAD_TIMEOUTS,
    "read_timeout": BAD_TIMEOUTS,
    "min_collection_interval": ("often",),
    "auth_string": ("", 754, ["u:p"], "u:p\n", None),
    "api_key": ("", 5, "Bearer hunter2secret", "hunter2secret\n", "hünter2secret", {"key": "hunter2secret"}),
    "username": (["u"], "only-the-name"),
    "password": ({"p": 1}, "only-the-password"),
}
NAME_OPTIONS = (
    "work_pool_names", "work_queue_names", "flow_names", "deployment_names", "event_names", "prefect_tags"
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("clean_agent", "no_check_run")


@pytest.fixture
def no_check_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends each check run before its first request."""

    def end(*_: object) -> None:
        raise AssertionError("the options were taken")

    monkeypatch.setattr(PrefectCheck, "check", end)


def run(init_config: dict[str, Any] | None = None, **instance: Any) -> CheckRunResult:
    options = {"prefect_url": URL, "skip_proxy": True, **instance}
    return Agent({name: value for name, value in options.items() if value is not ...}, init_config).run()


def assert_refused(result: CheckRunResult, *named: str) -> None:
    assert result.error
    assert "the options were taken" not in result.error
    for text in named:
        assert text in result.error
    assert result.series == []
    assert result.metadata == {}


@pytest.mark.parametrize(
    "url",
    [
        ...,
        None,
        "",
        5,
        ["http://localhost:4200/api"],
        "localhost:4200/api",
        "/api",
        "http://",
        "http:///api",
        "ftp://localhost/api",
        "http://localhost:port/api",
        "http://localhost:99999/api",
        "http://[::1/api",
        "http://localhost:4200/api?token=1",
        "http://localhost:4200/api#top",
        "http://my host:4200/api",
        "http://localhost:4200/api\n",
    ],
    ids=repr,
)
def test_a_prefect_url_that_is_none_is_refused(url: object) -> None:
    assert_refused(run(prefect_url=url), "prefect_url")


@pytest.mark.parametrize(
    "url",
    [
        "http://admin:hunter2secret@localhost:4200/api",
        "http://hunter2secret@localhost:4200/api",
        "http://admin:hunter2secret/x@localhost:4200/api",
        "http://admin:hunter2secret\u2100@localhost:4200/api",
        "http://admin:hunter2secret@localhost:port/api",
    ],
    ids=["password", "user", "password with a slash", "password of odd letters", "bad port"],
)
def test_a_prefect_url_with_credentials_is_refused_without_repeating_them(url: str) -> None:
    result = run(prefect_url=url)
    assert_refused(result, "prefect_url")
    assert "hunter2" not in result.error


@pytest.mark.parametrize("option", NAME_OPTIONS)
@pytest.mark.parametrize(
    "names",
    [
        "etl",
        ["etl"],
        5,
        {"include": "etl"},
        {"include": 5},
        {"include": [5]},
        {"exclude": [None]},
        {"exclude": [["etl"]]},
        {"include": ["("]},
        {"exclude": ["etl", "*"]},
        {"include": ["a{99999999999999999999}"]},
        {"includes": ["etl"]},
    ],
    ids=repr,
)
def test_lists_of_patterns_that_are_none_are_refused(option: str, names: Any) -> None:
    assert_refused(run(**{option: names}), option)


def test_a_pattern_that_does_not_compile_is_named_with_the_reason() -> None:
    result = run(work_pool_names={"include": ["fine", "(unclosed"]})
    assert_refused(result, "work_pool_names", "include", "(unclosed", "missing ), unterminated subpattern")


@pytest.mark.parametrize(
    ("option", "value"),
    [(option, value) for option, values in MALFORMED.items() for value in values],
    ids=repr,
)
def test_an_option_that_is_not_what_it_takes_is_refused(option: str, value: Any) -> None:
    assert_refused(run(**{option: value}), option)


@pytest.mark.parametrize("value", ["two\r\nlines", "two\nlines", " a blank before", "€uro"])
def test_a_header_that_cannot_be_sent_is_refused_without_repeating_it(value: str) -> None:
    result = run(custom_headers={"X-Token": f"{value}hunter2secret"})
    assert_refused(result, "custom_headers")
    assert "hunter2" not in result.error


CREDENTIALS: dict[str, dict[str, Any]] = {
    "auth_string": {"auth_string": "user:hunter2secret"},
    "api_key": {"api_key": "hunter2secret"},
    "username": {"username": "user", "password": "hunter2secret"},
    "auth_token": {
        "auth_token": {
            "reader": {"type": "file", "path": "/run/secrets/token"},
            "writer": {"type": "header", "name": "authorization"},
        },
    },
    "headers": {"headers": {"Authorization": "Bearer hunter2secret"}},
    "extra_headers": {"extra_headers": {"authorization": "Bearer hunter2secret"}},
    "custom_headers": {"custom_headers": {"AUTHORIZATION": "Bearer hunter2secret"}},
}


@pytest.mark.parametrize("pair", itertools.combinations(CREDENTIALS, 2), ids=" and ".join)
def test_two_kinds_of_credentials_are_refused_by_name_without_repeating_them(pair: tuple[str, str]) -> None:
    one, other = pair
    result = run(**CREDENTIALS[one], **CREDENTIALS[other])
    assert_refused(result, f"`{one}`", f"`{other}`")
    assert "hunter2" not in result.error


@pytest.mark.parametrize("auth_type", ["ntlm", "kerberos", "aws"])
@pytest.mark.parametrize("option", ["auth_string", "api_key", "headers"])
def test_another_type_of_authentication_excludes_the_other_kinds(option: str, auth_type: str) -> None:
    assert_refused(run(auth_type=auth_type, **CREDENTIALS[option]), f"`{option}`", "`auth_type`")


@pytest.mark.parametrize("option", CREDENTIALS)
def test_one_kind_of_credentials_is_taken(option: str) -> None:
    assert run(**CREDENTIALS[option]).error == "the options were taken"


def test_a_header_that_is_none_of_credentials_goes_with_all_of_them() -> None:
    for options in CREDENTIALS.values():
        if "headers" not in options:
            assert run(**options, headers={"X-Team": "data"}).error == "the options were taken"


def test_letters_that_the_old_encoding_has_not_are_refused_unless_the_new_one_is_asked_for() -> None:
    snowman: dict[str, Any] = {"username": "user", "password": "hunter2☃"}
    result = run(**snowman)
    assert_refused(result, "password", "use_legacy_auth_encoding")
    assert "hunter2" not in result.error
    assert run(**snowman, use_legacy_auth_encoding=False).error == "the options were taken"


@pytest.mark.parametrize("value", ["hunter2secret\n", "Bearer hunter2secret"])
@pytest.mark.parametrize("option", ["auth_string", "api_key"])
def test_a_secret_that_is_refused_is_not_repeated(option: str, value: str) -> None:
    instance: dict[str, Any] = {option: value}
    assert "hunter2" not in run(**instance).error


@pytest.mark.parametrize(("option", "value"), [("timeout", "soon"), ("timeout", 0), ("proxy", "http://proxy:3128")])
def test_an_option_for_all_instances_that_is_not_what_it_takes_is_refused(option: str, value: Any) -> None:
    assert_refused(run({option: value}), option)


def test_all_options_that_are_refused_by_their_types_are_named_at_once() -> None:
    result = run(late_start_grace_seconds=-1, worker_stale_after_seconds="x", collect_events="perhaps")
    assert_refused(result, "late_start_grace_seconds", "worker_stale_after_seconds", "collect_events")


@pytest.mark.parametrize(
    "instance",
    [
        {},
        {"prefect_url": "HTTPS://Prefect.test"},
        {"prefect_url": "http://[::1]:4200/api"},
        {"prefect_url": "http://127.0.0.1:9/team/prefect/api/"},
        {"late_start_grace_seconds": 0, "worker_stale_after_seconds": 0.5},
        {name: {"include": ["^etl"], "exclude": []} for name in NAME_OPTIONS},
        {name: {} for name in NAME_OPTIONS},
        {"auth_string": "user:with:colons:and ünicode"},
        {"auth_type": "BASIC", "username": "u", "password": "p"},
        {"collectors": {"include": ["work_pools", "workers"], "exclude": ["workers"]}},
        {"username": "", "password": "p"},
        {"custom_headers": {"X-Team": "data"}, "tags": ["env:prod"], "collect_events": True},
    ],
    ids=str,
)
def test_options_that_are_well_formed_are_taken(instance: dict[str, Any]) -> None:
    assert run(**instance).error == "the options were taken"


@pytest.mark.parametrize("option", ["allow_redirects", "persist_connections"])
def test_an_option_without_effect_is_named_once_in_the_log(option: str, caplog: pytest.LogCaptureFixture) -> None:
    watching = Agent({"prefect_url": URL, option: True})
    for _ in range(2):
        assert "the options were taken" in watching.run().error
    assert caplog.text.count(f"The option `{option}` has no effect") == 1


@pytest.mark.parametrize(("misspelled", "meant"), [("flow_name", "flow_names"), ("collect_event", "collect_events")])
def test_an_unknown_option_near_a_known_one_is_named_once_in_the_log(
    misspelled: str, meant: str, caplog: pytest.LogCaptureFixture
) -> None:
    watching = Agent({"prefect_url": URL, misspelled: True})
    for _ in range(2):
        assert "the options were taken" in watching.run().error
    [told] = [record.getMessage() for record in caplog.records if misspelled in record.getMessage()]
    assert meant in told
