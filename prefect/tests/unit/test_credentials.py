"""What is sent to be let in, and what must not show anywhere."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from datadog_checks.prefect import PrefectCheck
from datadog_checks.prefect.config.settings import Settings
from datadog_checks.prefect.config_models.instance import InstanceConfig
from datadog_checks.prefect.credentials import Credentials

URL = "https://prefect.test/api"
SECRET = "hunter2-the-secret"


def settings(**instance: Any) -> Settings:
    instance = {"prefect_url": URL, **instance}
    return Settings.of(InstanceConfig.model_validate(instance, context={"configured_fields": frozenset(instance)}))


def credentials(**instance: Any) -> Credentials:
    return settings(**instance).credentials


@pytest.mark.parametrize("text", ["user:password", "user:pass:word:", "user: ", "üser:wörd"])
def test_an_auth_string_is_sent_as_it_is_by_basic_authentication(text: str) -> None:
    sent = credentials(auth_string=text).authorization
    assert sent is not None
    scheme, _, encoded = sent.partition(" ")
    assert (scheme, base64.b64decode(encoded).decode()) == ("Basic", text)


def test_an_api_key_is_sent_as_a_bearer_token() -> None:
    assert credentials(api_key="pnu_1").authorization == "Bearer pnu_1"


@pytest.mark.parametrize(
    ("instance", "options"),
    [
        ({}, ()),
        ({"auth_string": "u:p"}, ("auth_string",)),
        ({"api_key": "k"}, ("api_key",)),
        ({"username": "u", "password": "p"}, ("username",)),
        ({"headers": {"X-Token": "t"}}, ("headers",)),
        ({"username": "u", "password": "p", "headers": {"X-Team": "data"}}, ("username",)),
        ({"custom_headers": {"Authorization": "t"}, "tls_cert": "client.pem"}, ("custom_headers", "tls_cert")),
        ({"tls_cert": "client.pem"}, ("tls_cert",)),
    ],
    ids=str,
)
def test_the_options_to_mend_are_those_that_are_set(instance: dict[str, Any], options: tuple[str, ...]) -> None:
    assert credentials(**instance).options == options


@pytest.mark.parametrize(
    "instance",
    [
        {"auth_string": f"user:{SECRET}"},
        {"api_key": SECRET},
        {"custom_headers": {"Authorization": f"Bearer {SECRET}"}},
    ],
    ids=str,
)
def test_no_representation_of_the_settings_shows_a_secret(instance: dict[str, Any]) -> None:
    shown = repr(settings(**instance))
    assert SECRET not in shown
    assert "Basic" not in shown


@pytest.mark.parametrize(
    "instance",
    [
        {"auth_string": f"user:{SECRET}"},
        {"api_key": SECRET},
        {"username": "user", "password": SECRET},
        {"headers": {"Authorization": f"Bearer {SECRET}"}},
        {"extra_headers": {"X-Token": SECRET}},
        {"custom_headers": {"X-Token": SECRET}},
        {"proxy": {"https": f"http://user:{SECRET}@proxy:3128"}},
        {"auth_token": {"reader": {"type": "oauth", "client_secret": SECRET}, "writer": {"type": "header"}}},
    ],
    ids=str,
)
def test_a_message_that_holds_a_secret_is_cleaned_of_it(instance: dict[str, Any]) -> None:
    check = PrefectCheck("prefect", {}, [{"prefect_url": URL, **instance}])
    for spelling in (SECRET, base64.b64encode(f"user:{SECRET}".encode()).decode()):
        if spelling == SECRET or "password" in instance or "auth_string" in instance:
            assert spelling not in check.sanitize(f"it said {spelling} and more")
    assert SECRET not in repr(check)


def test_the_password_of_a_proxy_for_all_instances_is_a_secret_too() -> None:
    check = PrefectCheck("prefect", {"proxy": {"http": f"http://user:{SECRET}@proxy"}}, [{"prefect_url": URL}])
    assert SECRET not in check.sanitize(SECRET)


def test_words_too_short_to_be_told_from_others_are_left_in_messages() -> None:
    check = PrefectCheck("prefect", {}, [{"prefect_url": URL, "username": "u", "password": "api"}])
    assert check.sanitize("/api/health") == "/api/health"
