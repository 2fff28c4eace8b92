"""Each way in which `auth_token` can fail is told by that option, with what is wrong, and without any secret."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lab.agent import Agent, CheckRunResult
from lab.ports import HOST, free_port
from lab.proxy import Answer, terminating

from ..conftest import AgentFactory
from .tokens import (
    BEARER,
    CLIENT_SECRET,
    DcosServer,
    Gate,
    OAuthServer,
    basic_credentials,
    dcos_reader,
    new_key,
    oauth_reader,
)

SECRET = "hunter2-the-token"
# Of the Agent, below debug: what the check's libraries log would be in its log, too.
TRACE_LEVEL = 7
# Remedies for what has nothing to do with tokens. `prefect_url` is right where nothing listens at it.
MISLEADING = ("`tls_ca_cert`", "`tls_cert`", "`tls_private_key`", "redirect", "`prefect_url`")

Reader = dict[str, Any]


@pytest.fixture(autouse=True)
def loopback_is_behind_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fetches tokens does not know the option `skip_proxy`."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "*")


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """All that would be in the Agent's log at its lowest level."""
    caplog.set_level(TRACE_LEVEL)
    return caplog


@pytest.fixture
def gate() -> Iterator[Gate]:
    with Gate() as gate:
        yield gate


@pytest.fixture
def oauth(authority: trustme.CA) -> Iterator[OAuthServer]:
    with OAuthServer(terminating(authority.issue_cert(HOST))) as oauth:
        yield oauth


@dataclass
class Trial:
    """An Agent whose requests cannot be authorized, and what may be said of it where."""

    agents: AgentFactory
    gate: Gate
    log: pytest.LogCaptureFixture

    def agent(self, reader: Reader, **instance: Any) -> Agent:
        instance = {"prefect_url": f"{self.gate.url}/api", "log_requests": True, **instance}
        return self.agents(auth_token={"reader": reader, "writer": BEARER}, **instance)

    def error(self, reader: Reader, *secrets: str) -> str:
        """The error of its check run, which is about the token, and the same in the next run."""
        agent = self.agent(reader)
        error = self.judged(agent.run())
        # Once more with the traceback, which the Agent shows too.
        report = agent.check.run()
        assert json.loads(report)[0]["message"] == error
        self.assert_silent(report + " ".join(agent.check.get_warnings()), *secrets)
        return error

    def judged(self, result: CheckRunResult) -> str:
        assert (result.gauge("health"), result.gauge("ready")) == (0, 0)
        assert "`auth_token`" in result.error
        assert [words for words in MISLEADING if words in result.error] == []
        return result.error

    def assert_silent(self, status: str, *secrets: str) -> None:
        for secret in (SECRET, CLIENT_SECRET, basic_credentials().partition(" ")[2], *secrets):
            assert secret not in status
            assert secret not in self.log.text


@pytest.fixture
def trial(agent: AgentFactory, gate: Gate, log: pytest.LogCaptureFixture) -> Trial:
    return Trial(agent, gate, log)


def a_folder(path: Path) -> None:
    path.mkdir()


def unreadable(path: Path) -> None:
    """Whom no permission stops, a link to itself does."""
    if os.geteuid():
        path.write_text(SECRET)
        path.chmod(0)
    else:
        path.symlink_to(path)


BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "(?i)no such file|not there|missing|does not exist|cannot be read"),
    "a folder": (a_folder, "(?i)directory|folder"),
    "unreadable": (unreadable, "(?i)permission|too many|cannot be read"),
    "not UTF-8": (lambda path: path.write_bytes(f"{SECRET}\xe9".encode("latin-1")), "(?i)utf-?8"),
    "of UTF-16": (lambda path: path.write_bytes(SECRET.encode("utf-16")), "(?i)utf-?8"),
    "empty": (lambda path: path.write_text(""), "(?i)empty|no token"),
    "blank": (lambda path: path.write_text(" \n\t\n"), "(?i)empty|blank|no token"),
    "two lines": (lambda path: path.write_text(f"{SECRET}\nand-more\n"), "(?i)line|character|header"),
    "with a return": (lambda path: path.write_bytes(f"{SECRET}\rX: 1".encode()), "(?i)line|character|header"),
    "not latin": (lambda path: path.write_text(f"{SECRET}☃"), "(?i)character|letter|header"),
    "with a null": (lambda path: path.write_text(f"{SECRET}\0"), "(?i)character|letter|header"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_file_without_a_token_that_can_be_sent_is_told_by_its_path(trial: Trial, tmp_path: Path, kind: str) -> None:
    make, reason = BAD_FILES[kind]
    path = tmp_path / "the-token"
    make(path)
    error = trial.error({"type": "file", "path": str(path)}, "and-more")
    assert str(path) in error
    assert re.search(reason, error.replace(str(path), ""))


@pytest.mark.parametrize(("pattern", "reason"), [("key=(.+)", "(?i)pattern"), ("secret=(.*?)", "(?i)pattern|empty")])
def test_a_pattern_that_finds_no_token_is_told_without_what_is_in_the_file(
    trial: Trial, tmp_path: Path, pattern: str, reason: str
) -> None:
    path = tmp_path / "the-token"
    path.write_text(f"secret={SECRET}\n")
    error = trial.error({"type": "file", "path": str(path), "pattern": pattern})
    assert str(path) in error
    assert re.search(reason, error.replace(str(path), ""))


def test_a_file_that_is_mended_is_used_in_the_next_check_run(trial: Trial, tmp_path: Path) -> None:
    path = tmp_path / "the-token"
    agent = trial.agent({"type": "file", "path": str(path)})
    trial.judged(agent.run())
    path.write_text(SECRET)
    assert "401" in agent.run().error
    assert {request.headers.get("Authorization") for request in trial.gate.asked[-2:]} == {f"Bearer {SECRET}"}


def says(status: int, body: str | bytes = b"", content_type: str = "application/json", **headers: str) -> Answer:
    encoded = body.encode() if isinstance(body, str) else body
    return Answer(status, encoded, {"Content-Type": content_type, **headers})


UNWANTED_TOKEN = json.dumps({"access_token": SECRET, "token_type": "Bearer", "expires_in": 60})
BAD_ANSWERS: dict[str, tuple[Answer | None, str]] = {
    "closed": (None, "(?i)connection|reached|answer"),
    "401": (says(401, "no", "text/plain"), "401|(?i:json|access.token)"),
    "invalid_client": (says(401, f'{{"error": "invalid_client", "hint": "{SECRET}"}}'), "invalid_client"),
    "error with 200": (says(200, '{"error": "invalid_scope", "error_description": "no such"}'), "invalid_scope"),
    "500": (says(500, "Internal Server Error", "text/plain"), "500|(?i:json|access.token)"),
    "HTML": (says(200, "<html><body>Sign in</body></html>", "text/html"), "(?i)json|html|access.token"),
    "empty": (says(200), "(?i)json|empty|access.token"),
    "no JSON object": (says(200, f'["{SECRET}"]'), "(?i)json|access.token"),
    "a number": (says(200, "5"), "(?i)json|access.token"),
    "no token": (says(200, f'{{"token": "{SECRET}"}}'), "access.token"),
    "null": (says(200, '{"access_token": null, "token_type": "Bearer"}'), "access.token"),
    "a token that is no text": (says(200, '{"access_token": {"a": 5}, "token_type": "Bearer"}'), "access.token"),
    "an empty token": (says(200, '{"access_token": "", "token_type": "Bearer"}'), "(?i)access.token|empty"),
    "two lines": (says(200, UNWANTED_TOKEN.replace(SECRET, SECRET + r"\nX: 1")), "(?i)line|character|header"),
    "not latin": (says(200, UNWANTED_TOKEN.replace(SECRET, SECRET + r"\u2603")), "(?i)character|letter|header"),
    "not UTF-8": (says(200, b'{"access_token": "\xff\xfe"}'), ""),
    "nested": (says(200, "[" * 100_000), ""),
    "not packed": (says(200, UNWANTED_TOKEN, **{"Content-Encoding": "gzip"}), ""),
}


@pytest.mark.parametrize("kind", BAD_ANSWERS)
def test_a_token_server_that_gives_no_token_is_told_by_its_address(
    trial: Trial, oauth: OAuthServer, authority_file: str, kind: str
) -> None:
    answer, reason = BAD_ANSWERS[kind]
    oauth.spoilt = lambda _: answer
    error = trial.error(oauth_reader(f"{oauth.url}/token", options={"verify": authority_file}))
    assert f"{oauth.url}/token" in error
    assert re.search(reason, error)


def test_a_token_server_that_refuses_the_client_is_told_with_its_words(
    trial: Trial, oauth: OAuthServer, authority_file: str
) -> None:
    reader = oauth_reader(f"{oauth.url}/token", options={"verify": authority_file})
    error = trial.error({**reader, "client_id": "nobody"})
    assert "invalid_client" in error
    assert f"{oauth.url}/token" in error


def test_a_token_server_where_nothing_listens_is_told_by_its_address(trial: Trial) -> None:
    url = f"https://{HOST}:{free_port()}/token"
    error = trial.error(oauth_reader(url))
    assert url in error
    assert "refused" in error


def test_a_token_server_whose_certificate_is_not_trusted_is_told_apart_from_prefect(
    trial: Trial, oauth: OAuthServer
) -> None:
    error = trial.error(oauth_reader(f"{oauth.url}/token"))
    assert f"{oauth.url}/token" in error
    assert "certificate" in error


def test_the_file_that_should_make_a_token_server_trusted_is_told_where_it_is_none(
    trial: Trial, oauth: OAuthServer, tmp_path: Path
) -> None:
    path = tmp_path / "missing.pem"
    error = trial.error(oauth_reader(f"{oauth.url}/token", options={"verify": str(path)}))
    assert str(path) in error


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/token", "token.example/token", "https://"])
def test_a_token_server_without_a_usable_address_is_told_by_it(trial: Trial, url: str) -> None:
    assert url in trial.agent(oauth_reader(url)).run().error
    assert "`auth_token`" in trial.agent(oauth_reader(url)).run().error


@pytest.fixture
def dcos_key(tmp_path: Path) -> Path:
    path = tmp_path / "dcos.key"
    new_key(path)
    return path


@pytest.fixture
def dcos(tmp_path: Path) -> Iterator[DcosServer]:
    """A login that knows another key than `dcos_key`."""
    with DcosServer(new_key(tmp_path / "other.key")) as dcos:
        yield dcos


def elliptic(path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(key.private_bytes(*form))


BAD_KEYS: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "a folder": a_folder,
    "no key": lambda path: path.write_text(SECRET),
    "empty": lambda path: path.write_text(""),
    "of another kind": elliptic,
}


@pytest.mark.parametrize("kind", BAD_KEYS)
def test_a_key_that_cannot_sign_a_login_is_told_by_its_path(
    trial: Trial, dcos: DcosServer, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "service.key"
    BAD_KEYS[kind](path)
    error = trial.error(dcos_reader(dcos.url, path))
    assert str(path) in error
    assert dcos.requests == []


def test_a_login_that_does_not_know_the_key_is_told_by_its_address(
    trial: Trial, dcos: DcosServer, dcos_key: Path
) -> None:
    error = trial.error(dcos_reader(f"{dcos.url}/login", dcos_key), *dcos_key.read_text().splitlines()[1:-1])
    assert f"{dcos.url}/login" in error
    assert "401" in error


@pytest.mark.parametrize(
    "answer",
    [
        None,
        says(500, "no", "text/plain"),
        says(200, "<html>Sign in</html>", "text/html"),
        says(200, f'{{"access_token": "{SECRET}"}}'),
        says(200, '{"token": null}'),
        says(200, '{"token": 5}'),
        says(200, f'["{SECRET}"]'),
        says(200, json.dumps({"token": f"{SECRET}\nX: 1"})),
    ],
    ids=["closed", "500", "HTML", "no token", "null", "a number", "a list", "two lines"],
)
def test_a_login_that_gives_no_token_is_told_by_its_address(
    trial: Trial, dcos: DcosServer, dcos_key: Path, answer: Answer | None
) -> None:
    dcos.spoilt = lambda _: answer
    assert f"{dcos.url}/login" in trial.error(dcos_reader(f"{dcos.url}/login", dcos_key))


def test_a_login_where_nothing_listens_is_told_by_its_address(trial: Trial, dcos_key: Path) -> None:
    url = f"http://{HOST}:{free_port()}/login"
    error = trial.error(dcos_reader(url, dcos_key))
    assert url in error
    assert "refused" in error
