"""Fixtures that several files of unit tests share."""

from __future__ import annotations

import pytest

from .events_endpoint import EventsEndpoint


@pytest.fixture
def endpoint() -> EventsEndpoint:
    """A server that has nothing but events."""
    return EventsEndpoint()
