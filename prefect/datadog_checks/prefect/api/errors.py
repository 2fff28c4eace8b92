"""What can go wrong between the check and a Prefect server, each told in words that a user can act on.

No message holds a credential: they are built from the configured URL, which may hold none, and from statuses.
"""

from __future__ import annotations


class ApiError(Exception):
    """A request, with its retries, did not give what was asked for."""


class ServerUnusable(ApiError):
    """Nothing that is sent to this URL can succeed: the whole check run ends."""


class Unreachable(ServerUnusable):
    """No connection, or no answer in time."""

    def __init__(self, url: str, cause: str) -> None:
        super().__init__(
            f"Prefect's API at {url} cannot be reached: {cause}. "
            "Is the server up, and is `prefect_url` the address that this Agent can reach it at?"
        )


class CertificateRefused(ServerUnusable):
    """The server's certificate is not trusted, has expired, or is for another name."""

    def __init__(self, url: str, cause: str) -> None:
        super().__init__(
            f"TLS with {url} failed: {cause}. Set `tls_ca_cert` to the authority that signed the server's certificate, "
            "or mend `prefect_url` if the certificate is for another name."
        )


class TlsRefused(ServerUnusable):
    """The other side does not speak TLS, or not in a way that both sides know."""

    def __init__(self, url: str, cause: str) -> None:
        plain = url.replace("https://", "http://", 1)
        super().__init__(
            f"TLS with {url} failed: {cause}. If the server speaks plain HTTP at this port, "
            f"set `prefect_url` to {plain}; else see `tls_protocols_allowed` and `tls_ciphers`."
        )


class AccessDenied(ServerUnusable):
    """401 or 403."""

    def __init__(self, url: str, status: int) -> None:
        super().__init__(
            f"Prefect's API at {url} refused access with status {status}. "
            "Set `username` and `password` (or `headers`) to what the server expects."
        )


class NotPrefect(ServerUnusable):
    """Something answers, but not as Prefect's API does."""

    def __init__(self, url: str, found: str) -> None:
        remedy = "Set `prefect_url` to the address of Prefect's API"
        if not url.rstrip("/").endswith("/api"):
            remedy += f", as a rule {url.rstrip('/')}/api"
        super().__init__(f"What answers at {url} is not Prefect's API: {found}. {remedy}.")


class UnsupportedVersion(ServerUnusable):
    """A server from before Prefect 3, whose API is another one."""

    def __init__(self, url: str, version: str) -> None:
        super().__init__(f"{url} is a Prefect server of version {version}: this check works with version 3 and newer.")


class Redirected(ServerUnusable):
    """A redirect, which is not followed: a POST would arrive as a GET, and credentials at another host."""

    def __init__(self, url: str, target: str) -> None:
        super().__init__(
            f"{url} redirects to {target}. Set `prefect_url` to where it leads; redirects are not followed."
        )


class RequestFailed(ApiError):
    """One kind of request fails while others may succeed."""

    def __init__(self, request: str, cause: str) -> None:
        super().__init__(f"{request} failed: {cause}")


class Rejected(RequestFailed):
    """A 4xx that says that the request itself is not taken, such as 404, 405 or 422."""

    def __init__(self, request: str, status: int, detail: str) -> None:
        super().__init__(request, f"status {status} {detail}".rstrip())
        self.status = status
        self.detail = detail


class UnexpectedAnswer(RequestFailed):
    """An answer whose shape is not the one that Prefect documents."""


class OutOfTime(ApiError):
    """The time that one check run may take is used up."""

    def __init__(self, request: str, budget_seconds: float) -> None:
        super().__init__(
            f"{request} was left out: the check run's {budget_seconds:g} s were used up. "
            "A longer `min_collection_interval` gives it more."
        )
