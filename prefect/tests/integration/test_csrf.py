"""Servers with CSRF protection want a token with each POST, so with each filter too."""

from __future__ import annotations

import uuid

from datadog_checks.prefect import PrefectCheck

from ..conftest import AgentFactory
from ..lab.prefect_api import PrefectApi
from ..lab.server import PrefectServer


def test_csrf_protection_needs_no_option_and_its_tokens_are_renewed(agent: AgentFactory) -> None:
    with PrefectServer(env={"PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true"}) as server:
        watching = agent(prefect_url=server.api_url)
        api = PrefectApi(server.api_url, csrf=True)
        pool = api.create_work_pool(f"pool-{uuid.uuid4().hex}")
        first = watching.run()
        assert (first.error, first.warnings) == ("", [])
        assert first.gauge("work_pool.is_not_ready", work_pool_id=pool["id"]) == 1

        # A token that another process fetched in this client's name voids the one that the check has.
        assert isinstance(watching.check, PrefectCheck)
        client_id = watching.check._api._client._csrf_client
        api.get(f"csrf-token?client={client_id}")
        second = watching.run()
        assert (second.error, second.warnings) == ("", [])
        assert second.gauge("work_pool.is_not_ready", work_pool_id=pool["id"]) == 1
