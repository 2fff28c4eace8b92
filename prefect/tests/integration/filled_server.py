"""A server with more deployments than one check run reads at its first start."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lab.filling import Size, fill
from lab.prefect_api import PrefectApi
from lab.server import FAST_EVENTS, PrefectServer

POOL = "large"


@contextmanager
def filled_server(deployments: int, planned: int) -> Iterator[PrefectServer]:
    """A server with so many deployments in one pool, each with so many planned runs and one that ended."""
    with PrefectServer(env=FAST_EVENTS) as server:
        PrefectApi(server.api_url).create_work_pool(POOL)
        fill(server, Size(deployments, planned=planned, ended=1), POOL)
        yield server


def fixtures(deployments: int, planned: int) -> tuple[Any, Any]:
    """The fixtures `server` and `api` of a module whose tests share such a server."""

    @pytest.fixture(scope="module", name="server")
    def filled() -> Iterator[PrefectServer]:
        with filled_server(deployments, planned) as server:
            yield server

    @pytest.fixture(scope="module", name="api")
    def api_of_filled(server: PrefectServer) -> PrefectApi:
        return PrefectApi(server.api_url)

    return filled, api_of_filled
