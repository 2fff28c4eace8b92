"""Pages of events whose links lead nowhere, or in a circle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from datadog_checks.prefect.api.errors import RequestFailed
from datadog_checks.prefect.api.models import EventPage
from datadog_checks.prefect.api.prefect import PrefectApi

from .builders import T0
from .fake_http import FakeHttp, Time, answer, client_of

LINK = "http://elsewhere.test/api/events/filter/next?page-token="


def event(number: int) -> dict[str, str]:
    return {"id": f"e{number}", "event": "prefect.flow-run.Running", "occurred": "2026-03-14T09:00:00Z"}


def page(*numbers: int, next_page: str | None) -> dict[str, Any]:
    return {"events": [event(number) for number in numbers], "total": 100, "next_page": next_page}


def api_that_answers(*pages: Mapping[str, Any]) -> tuple[PrefectApi, FakeHttp]:
    http = FakeHttp(*(answer(page) for page in pages))
    return PrefectApi(client_of(http, Time())), http


def test_all_pages_of_the_events_of_a_resource_are_read() -> None:
    api, http = api_that_answers(page(1, 2, next_page=LINK + "a"), page(2, 3, next_page=None))
    assert [found.id for found in api.events_of(["prefect.flow-run.f1"])] == ["e1", "e2", "e3"]
    assert len(http.sent) == 2


@pytest.mark.parametrize("link", ["http://[::1", "http://["])
def test_a_link_that_is_no_url_fails_the_request(link: str) -> None:
    api, _ = api_that_answers(page(1, next_page=link))
    with pytest.raises(RequestFailed, match="not a URL"):
        api.events_of(["prefect.flow-run.f1"])


def test_a_page_that_links_to_itself_is_not_read_for_ever() -> None:
    first, second = page(1, next_page=LINK + "a"), page(2, next_page=LINK + "a")
    for ask in (lambda api: api.events_of(["prefect.flow-run.f1"]), walk):
        api, http = api_that_answers(first, second)
        with pytest.raises(RequestFailed, match="back to itself"):
            ask(api)
        assert len(http.sent) == 2


def walk(api: PrefectApi) -> None:
    following: EventPage | None = api.events({}, T0, T0, 50)
    while following is not None:
        following = api.next_events(following)


def test_pages_that_link_to_each_other_are_not_read_for_ever() -> None:
    answers = [page(number % 2, next_page=f"{LINK}{number}") for number in range(9)]
    api, http = api_that_answers(*answers)
    with pytest.raises(RequestFailed, match="nothing new"):
        api.events_of(["prefect.flow-run.f1"])
    assert len(http.sent) == 3
