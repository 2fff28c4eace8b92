"""How an instance identifies itself to the server: by one value of the header `Authorization`, or by certificates."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from datadog_checks.base.utils.http import create_auth_token_handler

HEADER_OPTIONS = ("headers", "extra_headers", "custom_headers")
# Shorter ones could stand by chance in any text that is to be cleaned of them.
SHORTEST_SECRET = 6
TOKEN_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class Credentials:
    """The header `Authorization` where `auth_string` or `api_key` make it, and the `options` that are set.

    `auth_token` are the settings of that option. Other options are sent by the HTTP wrapper of the base class. No
    representation shows the header.
    """

    authorization: str | None = field(default=None, repr=False)
    options: tuple[str, ...] = ()
    auth_token: Mapping[str, Any] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, config: Any) -> Credentials:
        """The credentials of an instance that was validated."""
        authorization = None
        if config.auth_string:
            authorization = basic(config.auth_string)
        elif config.api_key:
            authorization = f"Bearer {config.api_key}"
        options = authorizing_options(config)
        if not options:
            options = [option for option in HEADER_OPTIONS if getattr(config, option)]
        token = config.auth_token
        auth_token = {"reader": token.reader, "writer": token.writer} if token else None
        return cls(authorization, (*options, *(["tls_cert"] if config.tls_cert else [])), auth_token)


def is_latin(text: str) -> bool:
    """Whether it can be sent in a header."""
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return True


def authorizing_options(config: Any) -> list[str]:
    """The options that each make a header `Authorization` of their own; only one of them can be sent."""
    options = [option for option in ("auth_string", "api_key") if getattr(config, option) is not None]
    if config.auth_type not in (None, "basic", "digest"):
        options.append("auth_type")
    elif config.username is not None or config.password is not None:
        options.append("username")
    writer = config.auth_token.writer if config.auth_token else None
    if writer and str(writer.get("name", "Authorization")).lower() == "authorization":
        options.append("auth_token")
    return [*options, *(option for option in HEADER_OPTIONS if _has_authorization(getattr(config, option)))]


def token_handler(settings: Mapping[str, Any]) -> Any:
    """The base class's object that reads and writes the token.

    Raises an error of whatever type, `datadog_checks.base.ConfigurationError` as a rule, for settings that are wrong.
    """
    plain = _plain(settings)
    reader = plain.get("reader")
    if isinstance(reader, dict) and reader.get("type") == "oauth":
        reader["options"] = {"timeout": TOKEN_TIMEOUT_SECONDS, **(reader.get("options") or {})}
        # It logs secrets and tokens, at the level of debugging.
        logging.getLogger("requests_oauthlib").setLevel(logging.INFO)
    return create_auth_token_handler(plain)


def token_source(settings: Mapping[str, Any]) -> str:
    """Where the token comes from, as it may be shown."""
    reader = settings["reader"]
    place = str(reader.get("url") or reader.get("login_url") or reader.get("path"))
    parts = urlsplit(place)
    shown = place if not parts.netloc else f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    key = reader.get("private_key_path")
    return f"{shown}, with the key {key}" if key else shown


def _plain(settings: Any) -> Any:
    if isinstance(settings, Mapping):
        return {key: _plain(value) for key, value in settings.items()}
    return [_plain(value) for value in settings] if isinstance(settings, (list, tuple)) else settings


def _has_authorization(headers: Mapping[str, Any] | None) -> bool:
    return any(str(name).lower() == "authorization" for name in headers or ())


def basic(user_and_password: str) -> str:
    """The header of basic authentication. Prefect's server compares user and password as one text, as UTF-8."""
    return f"Basic {base64.b64encode(user_and_password.encode()).decode()}"


def secrets_of(instance: Mapping[str, Any], init_config: Mapping[str, Any]) -> Iterator[str]:
    """What must not show in any message: passwords, keys, what headers carry, and the spellings they are sent in."""
    for secret in _secrets_in(instance, init_config):
        if isinstance(secret, str) and len(secret) >= SHORTEST_SECRET:
            yield secret


def _secrets_in(instance: Mapping[str, Any], init_config: Mapping[str, Any]) -> Iterator[Any]:
    username, password, auth_string = (instance.get(name) for name in ("username", "password", "auth_string"))
    yield from (password, instance.get("api_key"), instance.get("tls_private_key_password"))
    yield base64.b64encode(f"{username}:{password}".encode()).decode()
    if isinstance(auth_string, str):
        yield from (auth_string, auth_string.partition(":")[2], basic(auth_string).removeprefix("Basic "))
    for option in HEADER_OPTIONS:
        headers = instance.get(option)
        if isinstance(headers, Mapping):
            for value in headers.values():
                # A message may hold the credentials without the scheme in front of them.
                yield from (value, str(value).rpartition(" ")[2])
    auth_token = instance.get("auth_token")
    reader = auth_token.get("reader") if isinstance(auth_token, Mapping) else None
    if isinstance(reader, Mapping):
        yield from (reader.get(name) for name in ("client_secret", "private_key", "password"))
    for proxies in (instance.get("proxy"), init_config.get("proxy")):
        if isinstance(proxies, Mapping):
            for url in proxies.values():
                if isinstance(url, str) and "@" in url:
                    yield url.rpartition("@")[0].rpartition("/")[2].partition(":")[2]
