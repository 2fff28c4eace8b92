"""Whoever comes from the check that the Agent ships keeps the configuration: each option is accepted, or refused."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from datadog_checks.prefect.check import WITHOUT_EFFECT
from datadog_checks.prefect.config.settings import Settings
from datadog_checks.prefect.config_models.instance import InstanceConfig
from datadog_checks.prefect.output.metrics import METRICS

SWITCHING = Path(__file__).parents[3] / "docs" / "switching.md"
URL = "http://prefect.example:4200/api"
LISTS = {"include": ["^kept"], "exclude": ["^kept-not$"]}
BASIC = {"username": "monitor", "password": "secret"}

# Each option in a shape that the shipped check documents, with what else it needs.
OPTIONS: dict[str, dict[str, Any]] = {
    "prefect_url": {},
    "work_pool_names": {"work_pool_names": LISTS},
    "work_queue_names": {"work_queue_names": LISTS},
    "flow_names": {"flow_names": LISTS},
    "deployment_names": {"deployment_names": LISTS},
    "event_names": {"event_names": LISTS},
    "prefect_tags": {"prefect_tags": LISTS},
    "collect_events": {"collect_events": True},
    "collectors": {"collectors": {"include": ["work_pools"], "exclude": ["workers"]}},
    "auth_type": {"auth_type": "BASIC", **BASIC},
    "username": BASIC,
    "password": BASIC,
    "auth_string": {"auth_string": "monitor:secret"},
    "auth_token": {
        "auth_token": {
            "reader": {"type": "file", "path": "/run/token"},
            "writer": {"type": "header", "name": "Authorization", "value": "Bearer <TOKEN>"},
        }
    },
    "headers": {"headers": {"Host": "prefect.internal"}},
    "extra_headers": {"extra_headers": {"X-Team": "data"}},
    "custom_headers": {"custom_headers": {"X-Team": "data"}},
    "allow_redirects": {"allow_redirects": True},
    "persist_connections": {"persist_connections": True},
    "proxy": {"proxy": {"http": "http://proxy:3128", "https": "http://proxy:3128", "no_proxy": ["localhost"]}},
    "skip_proxy": {"skip_proxy": True},
    "tls_verify": {"tls_verify": False},
    "tls_ca_cert": {"tls_ca_cert": "/etc/ssl/ca.pem"},
    "tls_cert": {"tls_cert": "/etc/ssl/client.pem"},
    "tls_private_key": {"tls_private_key": "/etc/ssl/client.key"},
    "timeout": {"timeout": 10},
    "connect_timeout": {"connect_timeout": 5},
    "read_timeout": {"read_timeout": 5},
    "tags": {"tags": ["env:prod"]},
    "service": {"service": "orchestration"},
    "min_collection_interval": {"min_collection_interval": 30},
    "empty_default_hostname": {"empty_default_hostname": True},
}
REFUSED = {
    "a string for credentials without a colon": ("auth_string", "monitor"),
    "one with an empty user": ("auth_string", ":secret"),
    "one with an empty password": ("auth_string", "monitor:"),
    "a type of authentication that there is not": ("auth_type", "bearer"),
    "a list where there are two": ("flow_names", ["^kept"]),
    "a pattern that is none": ("flow_names", {"include": ["("]}),
    "other lists of collectors": ("collectors", {"only": ["work_pools"]}),
}


def model(**options: Any) -> InstanceConfig:
    instance = {"prefect_url": URL, **options}
    return InstanceConfig.model_validate(instance, context={"configured_fields": frozenset(instance)})


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_of_the_shipped_check_is_accepted_as_it_is(option: str) -> None:
    accepted = model(**OPTIONS[option])
    wanted = {"prefect_url": URL, **OPTIONS[option]}[option]
    found = accepted.model_dump()[option]
    if isinstance(wanted, dict):
        assert {key: list(value) if isinstance(value, tuple) else value for key, value in found.items() if value} == {
            key: value for key, value in wanted.items() if value
        }
    else:
        assert (list(found) if isinstance(found, tuple) else found) in (wanted, str(wanted).lower())


def test_filters_mean_what_they_did() -> None:
    names = ("work_pool_names", "work_queue_names", "flow_names", "deployment_names", "event_names", "prefect_tags")
    filters = Settings.of(model(**dict.fromkeys(names, LISTS))).filters
    for chosen in (
        filters.work_pools,
        filters.work_queues,
        filters.flows,
        filters.deployments,
        filters.events,
        filters.prefect_tags,
    ):
        assert [chosen.takes(name) for name in ("kept", "kept-too", "kept-not", "other")] == [True, True, False, False]


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_named(case: str) -> None:
    option, value = REFUSED[case]
    with pytest.raises(ValidationError) as refusal:
        model(**{option: value})
    [error] = refusal.value.errors()
    assert option in (*error["loc"], *re.findall(r"`(\w+)`", error["msg"]))


def metrics_in(cell: str) -> list[str]:
    """The names and patterns in a cell; one that begins with a dot has the family of the one before."""
    found: list[str] = []
    for name in re.findall(r"`([\w.*]+)`", cell):
        found.append(found[-1].rpartition(".")[0] + name if name.startswith(".") else name)
    return found


def test_the_document_tells_of_every_metric() -> None:
    table = SWITCHING.read_text(encoding="utf-8").partition("| Metric | Shipped check |")[2].partition("\n\n")[0]
    patterns = [name for row in table.splitlines()[2:] for name in metrics_in(row.split("|")[1])]
    assert [metric.name for metric in METRICS if not any(fnmatch(metric.name, pattern) for pattern in patterns)] == []
    assert all(any(fnmatch(metric.name, pattern) for metric in METRICS) for pattern in patterns)


def test_the_document_lists_every_option() -> None:
    table = SWITCHING.read_text(encoding="utf-8").partition("| Option | This check |")[2].partition("\n\n")[0]
    listed = [name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(listed) == sorted(OPTIONS)
    assert set(listed) <= set(InstanceConfig.model_fields)
    for option in WITHOUT_EFFECT:
        assert re.search(rf"^\| `{option}` \| No effect", table, re.MULTILINE)
