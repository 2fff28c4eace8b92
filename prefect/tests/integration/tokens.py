"""Where tokens come from, and who asks for them: token servers, files, and a proxy that lets nobody else through."""

from __future__ import annotations

import base64
import json
import ssl
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from lab.proxy import Answer, Proxy, Request, RespondingServer

CLIENT_ID = "datadog-agent"
CLIENT_SECRET = "hunter2-the-client-secret"
SERVICE_ACCOUNT = "datadog-agent"
BEARER = {"type": "header", "name": "Authorization", "value": "Bearer <TOKEN>"}
JSON = {"Content-Type": "application/json"}


def new_token() -> str:
    return f"token-{uuid.uuid4().hex}"


class Guard(Proxy):
    """A proxy that lets requests through whose header has a value that `accepts` takes, and answers 401 to others."""

    def __init__(self, target: str, accepts: Callable[[str], bool], header: str = "Authorization") -> None:
        super().__init__(target)
        self._accepts = accepts
        self._header = header.lower()
        self._counting = threading.Lock()
        self._before: tuple[int, Callable[[], None]] | None = None
        self.refused: list[Request] = []

    def before_request(self, number: int, act: Callable[[], None]) -> None:
        """Do something before the request of this number, counted from now; the next one has number 1."""
        with self._counting:
            self._before = (number, act)

    def _respond(self, request: Request) -> Answer | None:
        with self._counting:
            if self._before:
                number, act = self._before
                self._before = (number - 1, act) if number > 1 else None
                if self._before is None:
                    act()
        values = [value for name, value in request.headers.items() if name.lower() == self._header]
        if len(values) != 1 or not self._accepts(values[0]):
            self.refused.append(request)
            return Answer(401, b'{"detail": "a token is wanted"}', JSON)
        return super()._respond(request)


class Gate(RespondingServer):
    """In the place of Prefect: it lets nobody in. `asked` are the requests that came to it."""

    def __init__(self) -> None:
        super().__init__(self._refuse)
        self.asked: list[Request] = []

    def _refuse(self, request: Request) -> Answer:
        self.asked.append(request)
        return Answer(401, b'{"detail": "a token is wanted"}', JSON)


class TokenServer(RespondingServer):
    """Issues tokens to those whose request `_admits`; each voids the one before. `spoilt` is answered instead.

    `answered` are further members of its answers.
    """

    refusal: Mapping[str, str] = {"error": "invalid_client"}
    name = "access_token"

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(self._respond, tls)
        self.requests: list[Request] = []
        self.valid: str | None = None
        self.issued: list[str] = []
        self.answered: dict[str, Any] = {}
        self.spoilt: Callable[[Request], Answer | None] | None = None

    def revoke(self) -> None:
        """Let the token be no longer valid: the next one must be asked for."""
        self.valid = None

    def _admits(self, request: Request) -> bool:
        raise NotImplementedError

    def _respond(self, request: Request) -> Answer | None:
        self.requests.append(request)
        if self.spoilt:
            return self.spoilt(request)
        if request.method != "POST" or not self._admits(request):
            return Answer(401, json.dumps(self.refusal).encode(), JSON)
        self.valid = new_token()
        self.issued.append(self.valid)
        return Answer(200, json.dumps({self.name: self.valid, **self.answered}).encode(), JSON)


class OAuthServer(TokenServer):
    """A token endpoint for client credentials, RFC 6749, section 4.4."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls)
        self.answered = {"token_type": "Bearer", "expires_in": 3600}

    def _admits(self, request: Request) -> bool:
        form = form_of(request)
        sent = (form.get("client_id"), form.get("client_secret"))
        return form.get("grant_type") == "client_credentials" and (
            sent == (CLIENT_ID, CLIENT_SECRET) or request.headers.get("Authorization") == basic_credentials()
        )


class DcosServer(TokenServer):
    """The login of DC/OS: it takes what a service account signed with its key."""

    refusal: Mapping[str, str] = {"title": "Unauthorized"}
    name = "token"

    def __init__(self, key: rsa.RSAPublicKey) -> None:
        super().__init__()
        self._key = key

    def _admits(self, request: Request) -> bool:
        sent = json.loads(request.body)
        signed, _, signature = str(sent["token"]).rpartition(".")
        try:
            self._key.verify(_unbase64(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            return False
        claims = json.loads(_unbase64(signed.partition(".")[2]))
        return bool(claims == {"uid": SERVICE_ACCOUNT, "exp": sent["exp"]} and sent["uid"] == SERVICE_ACCOUNT)


@dataclass(frozen=True)
class Source:
    """A kind of `auth_token`: the option, and what the guard has to know of it.

    `replace` voids the token and makes the next one ready; `asked` tells how often a server was asked for a token, and
    is always 0 for files.
    """

    option: Mapping[str, Any]
    accepts: Callable[[str], bool]
    replace: Callable[[], None]
    asked: Callable[[], int]
    secrets: list[str] = field(default_factory=list)


def file_source(path: Path, pattern: str | None = None, around: str = "{}\n") -> Source:
    """A token in a file; `around` is the file's content with `{}` for the token."""
    current: list[str] = []

    def replace() -> None:
        current[:] = [new_token()]
        path.write_text(around.format(current[0]))

    replace()
    reader = {"type": "file", "path": str(path)} | ({"pattern": pattern} if pattern else {})
    return Source(
        {"reader": reader, "writer": BEARER}, lambda value: value == f"Bearer {current[0]}", replace, lambda: 0
    )


def oauth_source(server: OAuthServer, authority_file: str, **reader: Any) -> Source:
    """A token of an OAuth server whose certificate is this authority's; `reader` has further settings."""
    options = {"verify": authority_file, **reader.pop("options", {})}
    settings = oauth_reader(f"{server.url}/token", options=options, **reader)
    return _served(server, settings, BEARER, [CLIENT_SECRET, basic_credentials().partition(" ")[2]])


def oauth_reader(url: str, **settings: Any) -> dict[str, Any]:
    return {"type": "oauth", "url": url, "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET, **settings}


def dcos_source(server: DcosServer, key_path: Path) -> Source:
    """A token of the login of DC/OS."""
    secret_line = key_path.read_text().splitlines()[5]
    return _served(server, dcos_reader(f"{server.url}/acs/api/v1/auth/login", key_path), BEARER, [secret_line])


def dcos_reader(url: str, key_path: Path) -> dict[str, Any]:
    return {
        "type": "dcos_auth",
        "login_url": url,
        "service_account": SERVICE_ACCOUNT,
        "private_key_path": str(key_path),
    }


def _served(server: TokenServer, reader: dict[str, Any], writer: dict[str, str], secrets: list[str]) -> Source:
    def accepts(value: str) -> bool:
        return server.valid is not None and value == f"Bearer {server.valid}"

    return Source({"reader": reader, "writer": writer}, accepts, server.revoke, lambda: len(server.requests), secrets)


def new_key(path: Path) -> rsa.RSAPublicKey:
    """Write a private key to a file in PEM format, and return the public one."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(key.private_bytes(*form))
    return key.public_key()


def form_of(request: Request) -> dict[str, str]:
    """The fields of a form that was sent as a body."""
    return {name: values[0] for name, values in parse_qs(request.body.decode()).items()}


def basic_credentials() -> str:
    return f"Basic {base64.b64encode(f'{CLIENT_ID}:{CLIENT_SECRET}'.encode()).decode()}"


def _unbase64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
