"""Servers with settings of their own that several files of tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trustme

from lab.prefect_api import PrefectApi
from lab.proxy import Proxy
from lab.server import FAST_EVENTS, PrefectServer
from lab.version import reason_to_skip


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        skip_where_lacking(mark.args[0])


def skip_where_lacking(capability: str) -> None:
    """Skip a test that needs what the laboratory's servers cannot do."""
    if reason := reason_to_skip(capability):
        pytest.skip(reason)


# The service that tells what is no longer ready or online looks every second, and is content with a second of silence.
ATTENTIVE = {
    "PREFECT_SERVER_SERVICES_FOREMAN_LOOP_SECONDS": "1",
    "PREFECT_SERVER_SERVICES_FOREMAN_DEPLOYMENT_LAST_POLLED_TIMEOUT_SECONDS": "1",
    "PREFECT_SERVER_SERVICES_FOREMAN_WORK_QUEUE_LAST_POLLED_TIMEOUT_SECONDS": "1",
}
AUTH_STRING = "datadog:correct:horse:battery"
CSRF_LIFETIME_SECONDS = 6


@pytest.fixture(scope="session")
def attentive_server() -> Iterator[PrefectServer]:
    """A server on which workers are soon offline, and pools, queues and deployments soon not ready."""
    with PrefectServer(env={**FAST_EVENTS, **ATTENTIVE}) as server:
        yield server


@pytest.fixture(scope="session")
def attentive_api(attentive_server: PrefectServer) -> PrefectApi:
    return PrefectApi(attentive_server.api_url)


@pytest.fixture(scope="session")
def secured_server() -> Iterator[PrefectServer]:
    """A server with CSRF protection, whose tokens live for seconds, and a password."""
    env = {
        **FAST_EVENTS,
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_SERVER_CSRF_TOKEN_EXPIRATION": f"PT{CSRF_LIFETIME_SECONDS}S",
        "PREFECT_SERVER_API_AUTH_STRING": AUTH_STRING,
    }
    with PrefectServer(env=env) as secured_server:
        yield secured_server


@pytest.fixture
def proxy(server: PrefectServer) -> Iterator[Proxy]:
    """A proxy in front of the server that all tests share."""
    with Proxy(server.url) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """An authority for certificates that no host trusts by itself."""
    return trustme.CA()


@pytest.fixture(scope="session")
def authority_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file that makes it trusted, for `tls_ca_cert`."""
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)
