"""An `auth_token` that cannot work is a configuration error that names it, before anything is asked of any server."""

from __future__ import annotations

from typing import Any

import pytest

from datadog_checks.prefect import PrefectCheck
from lab.agent import Agent, CheckRunResult

SECRET = "hunter2-the-client-secret"
FILE = {"type": "file", "path": "/run/secrets/token"}
OAUTH = {"type": "oauth", "url": "https://sso.test/token", "client_id": "agent", "client_secret": SECRET}
DCOS = {
    "type": "dcos_auth",
    "login_url": "http://leader.test/acs/api/v1/auth/login",
    "service_account": "agent",
    "private_key_path": "/run/secrets/key",
}
HEADER = {"type": "header", "name": "Authorization", "value": "Bearer <TOKEN>"}

pytestmark = pytest.mark.usefixtures("clean_agent", "no_check_run")


@pytest.fixture
def no_check_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends each check run before its first request."""

    def end(*_: object) -> None:
        raise AssertionError("the options were taken")

    monkeypatch.setattr(PrefectCheck, "check", end)


def run(auth_token: object) -> CheckRunResult:
    return Agent({"prefect_url": "http://prefect.test:4200/api", "auth_token": auth_token}).run()


def assert_refused(auth_token: object, *named: str) -> None:
    result = run(auth_token)
    assert result.error_type.endswith("ConfigurationError"), result.error
    for text in ("auth_token", *named):
        assert text in result.error
    assert SECRET not in result.error
    assert result.series == []


def changed(settings: dict[str, Any], **changes: object) -> dict[str, Any]:
    """These settings with others in their place, and without those that are `...`."""
    return {name: value for name, value in {**settings, **changes}.items() if value is not ...}


@pytest.mark.parametrize("reader", [FILE, {**FILE, "pattern": "key=(.+)"}, OAUTH, {**OAUTH, "basic_auth": True}, DCOS])
def test_each_kind_of_reader_is_taken(reader: dict[str, Any]) -> None:
    assert run({"reader": reader, "writer": HEADER}).error == "the options were taken"


@pytest.mark.parametrize("auth_token", ["secret", 5, ["reader"], {}, {"reader": FILE}, {"writer": HEADER}], ids=repr)
def test_what_lacks_a_reader_or_a_writer_is_refused(auth_token: object) -> None:
    result = run(auth_token)
    assert result.error_type.endswith("ConfigurationError")
    assert "auth_token" in result.error
    assert result.series == []


@pytest.mark.parametrize("bad", ["file", 5, [], {}, {"path": "/run/secrets/token"}], ids=repr)
@pytest.mark.parametrize("side", ["reader", "writer"])
def test_a_side_that_has_no_type_is_refused(side: str, bad: object) -> None:
    result = run({"reader": FILE, "writer": HEADER, side: bad})
    assert result.error_type.endswith("ConfigurationError")
    assert "auth_token" in result.error
    assert side in result.error


@pytest.mark.parametrize(
    ("reader", "named"),
    [
        (changed(FILE, type="vault"), "type"),
        (changed(FILE, type=5), "type"),
        (changed(FILE, path=...), "`path`"),
        (changed(FILE, path=""), "`path`"),
        (changed(FILE, path=5), "`path`"),
        (changed(FILE, pattern=5), "`pattern`"),
        (changed(FILE, pattern="key=.+"), "pattern"),
        (changed(FILE, pattern="(key)=(.+)"), "pattern"),
        (changed(FILE, pattern="key=(.+"), "pattern"),
        (changed(OAUTH, url=...), "`url`"),
        (changed(OAUTH, url=["https://sso.test"]), "`url`"),
        (changed(OAUTH, client_id=...), "`client_id`"),
        (changed(OAUTH, client_secret=...), "`client_secret`"),
        (changed(OAUTH, client_secret=5), "`client_secret`"),
        (changed(OAUTH, basic_auth="yes"), "`basic_auth`"),
        (changed(DCOS, login_url=...), "`login_url`"),
        (changed(DCOS, service_account=...), "`service_account`"),
        (changed(DCOS, private_key_path=...), "`private_key_path`"),
        (changed(DCOS, expiration="soon"), "`expiration`"),
    ],
    ids=str,
)
def test_a_reader_that_cannot_read_is_refused_by_its_setting(reader: dict[str, Any], named: str) -> None:
    assert_refused({"reader": reader, "writer": HEADER}, named)


@pytest.mark.parametrize(
    ("writer", "named"),
    [
        (changed(HEADER, type="cookie"), "type"),
        (changed(HEADER, name=...), "`name`"),
        (changed(HEADER, name=""), "`name`"),
        (changed(HEADER, name=5), "`name`"),
        (changed(HEADER, value=5), "`value`"),
        (changed(HEADER, value="Bearer"), "`value`"),
        (changed(HEADER, placeholder="%t"), "`%t`"),
        (changed(HEADER, placeholder=""), "`placeholder`"),
        (changed(HEADER, placeholder=5), "`placeholder`"),
        (changed(HEADER, name="X Token"), "`name`"),
        (changed(HEADER, name="X-Token:"), "`name`"),
        (changed(HEADER, name="X-Token\n"), "`name`"),
        (changed(HEADER, name="X-Tökén"), "`name`"),
        (changed(HEADER, value="Bearer\n<TOKEN>"), "`value`"),
        (changed(HEADER, value="☃ <TOKEN>"), "`value`"),
    ],
    ids=str,
)
def test_a_writer_that_cannot_write_is_refused_by_its_setting(writer: dict[str, Any], named: str) -> None:
    assert_refused({"reader": FILE, "writer": writer}, named)
