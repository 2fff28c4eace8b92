"""What can go wrong between the check and a Prefect server, each told in words that a user can act on.

No message holds a credential: they are built from the configured URL, which may hold none, and from statuses.
"""

from __future__ import annotations

from collections.abc import Sequence

from datadog_checks.prefect.credentials import HEADER_OPTIONS

# What belongs to an option that stands for several.
TOGETHER = {"username": ("username", "password"), "tls_cert": ("tls_cert", "tls_private_key")}


class ApiError(Exception):
    """A request, with its retries, did not give what was asked for."""


class ServerUnusable(ApiError):
    """Nothing that is sent to this URL can succeed: the whole check run ends. `remedy` says what to do about it."""

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(f"{cause}. {remedy}")
        self.cause = cause
        self.remedy = remedy


class Unreachable(ServerUnusable):
    """No connection, or no answer in time."""

    def __init__(self, url: str, cause: str) -> None:
        super().__init__(
            f"Prefect's API at {url} cannot be reached: {cause}",
            "Is the server up, and is `prefect_url` the address that this Agent can reach it at?",
        )


class TlsFailed(ServerUnusable):
    """No connection that TLS protects."""


class CertificateRefused(TlsFailed):
    """The server's certificate is not accepted."""

    def __init__(self, url: str, cause: str, remedy: str) -> None:
        super().__init__(f"TLS with {url} failed: the certificate is not accepted ({cause})", remedy)


class CertificateUntrusted(CertificateRefused):
    """It is signed by nobody whom this host trusts, or by itself."""

    def __init__(self, url: str, cause: str) -> None:
        super().__init__(
            url,
            cause,
            "It is not trusted: set `tls_ca_cert` to the certificate of the authority that signed it, or to the "
            "certificate itself if it is self-signed.",
        )


class CertificateOutOfDate(CertificateRefused):
    """Its time is over, or has not begun."""

    def __init__(self, url: str, cause: str) -> None:
        super().__init__(
            url, cause, "It is out of date: renew the server's or the proxy's certificate, and check this host's clock."
        )


class CertificateForAnotherName(CertificateRefused):
    """It is for another host name or address."""

    def __init__(self, url: str, cause: str) -> None:
        super().__init__(
            url,
            cause,
            "It is for another name: set `prefect_url` to a name in the certificate, or issue one for this name.",
        )


class ClientCertificateWanted(TlsFailed):
    """The other side wants a certificate of this Agent's, or refuses the one that it has."""

    def __init__(self, url: str, cause: str) -> None:
        super().__init__(
            f"TLS with {url} failed: the other side wants a client certificate that it trusts ({cause})",
            "Set `tls_cert`, and `tls_private_key` where the key is in a file of its own.",
        )


class TlsFilesUnusable(TlsFailed):
    """A file that the instance's TLS options name cannot be read, or is not what it should be."""

    def __init__(self, url: str, cause: str) -> None:
        super().__init__(
            f"TLS with {url} cannot begin: {cause}",
            "See that `tls_ca_cert`, `tls_cert` and `tls_private_key` are files in PEM format that the Agent can read, "
            "and that the key is the certificate's.",
        )


class TlsRefused(TlsFailed):
    """The other side does not speak TLS, or not in a way that both sides know."""

    def __init__(self, url: str, cause: str) -> None:
        plain = url.replace("https://", "http://", 1)
        super().__init__(
            f"TLS with {url} failed: {cause}",
            f"If the server speaks plain HTTP at this port, set `prefect_url` to {plain}; else see "
            "`tls_protocols_allowed` and `tls_ciphers`, and `tls_cert` if the other side wants a certificate of this "
            "Agent's.",
        )


class AccessDenied(ServerUnusable):
    """401 or 403; `options` are those that the instance's credentials are set by."""

    def __init__(self, url: str, status: int, options: Sequence[str] = ()) -> None:
        if options:
            named = " and ".join(f"`{option}`" for name in options for option in TOGETHER.get(name, (name,)))
            remedy = f"Set {named} to what the server, or a proxy in front of it, expects."
            if set(options) <= set(HEADER_OPTIONS):
                # They may be a proxy's, or none of credentials at all.
                remedy += " A password of the server's own goes into `auth_string`."
        else:
            remedy = (
                "Set `username` and `password`, or `auth_string`, to what the server expects, `api_key` for Prefect "
                "Cloud, `headers` for a proxy."
            )
        super().__init__(f"Prefect's API at {url} refused access with status {status}", remedy)


class CsrfTokenRefused(ServerUnusable):
    """The server refuses the CSRF token that it gave a moment ago."""

    def __init__(self, url: str, status: int) -> None:
        super().__init__(
            f"Prefect's API at {url} refused with status {status} the CSRF token that it had given",
            "Let a proxy in front of it pass on the headers Prefect-Csrf-Token and Prefect-Csrf-Client; servers behind "
            "a load balancer need a database in common.",
        )


class NotPrefect(ServerUnusable):
    """Something answers, but not as Prefect's API does."""

    def __init__(self, url: str, found: str) -> None:
        remedy = "Set `prefect_url` to the address of Prefect's API"
        if not url.rstrip("/").endswith("/api") and "/workspaces/" not in url:
            remedy += f", as a rule {url.rstrip('/')}/api"
        super().__init__(f"What answers at {url} is not Prefect's API: {found}", f"{remedy}.")


class TokenUnavailable(ServerUnusable):
    """The option `auth_token` gives no token."""

    def __init__(self, source: str, cause: str) -> None:
        super().__init__(
            f"`auth_token` gives no token from {source}: {cause}",
            "Correct the settings of its `reader`, or what they lead to.",
        )


class UnsupportedVersion(ServerUnusable):
    """A server from before Prefect 3, whose API is another one."""

    def __init__(self, url: str, version: str) -> None:
        super().__init__(
            f"{url} is a Prefect server of version {version}: this check works with version 3 and newer",
            "Upgrade the server.",
        )


class Redirected(ServerUnusable):
    """A redirect, which is not followed: a POST would arrive as a GET, and credentials at another host.

    `elsewhere` says that it leads to another path than the one asked for, as to a page for logging in.
    """

    def __init__(self, url: str, target: str, elsewhere: bool = False) -> None:
        remedy = "Set `prefect_url` to where it leads; redirects are not followed."
        if elsewhere:
            remedy = (
                "Redirects are not followed. If that is the login of a proxy, give it what it takes from programs, by "
                "`headers`, `username` and `password`, or `tls_cert`; else set `prefect_url` to where the API is."
            )
        super().__init__(f"{url} redirects to {target}", remedy)


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


class UnreadableAnswer(UnexpectedAnswer):
    """An answer that is too large, or nested too deeply, to be taken in: a smaller page may be."""


class OutOfTime(ApiError):
    """There was no time left for a request: of the check run (`of_run`), or of the share of what was asked for."""

    def __init__(self, request: str, budget_seconds: float, of_run: bool = True) -> None:
        what = f"the check run's {budget_seconds:g} s"
        super().__init__(
            f"{request} was left out: {what if of_run else f'this share of {what}'} were used up. "
            "A longer `min_collection_interval` gives it more."
        )


class NoAnswerInTime(OutOfTime):
    """The server did not answer a request within the time that there was for it."""

    def __init__(self, request: str, seconds: float) -> None:
        ApiError.__init__(
            self, f"{request} was not answered within {seconds:.3g} s. It is sent again in the next check run."
        )


class LeftAlone(OutOfTime):
    """The server asked, by `Retry-After`, not to be sent requests for longer than there was time for."""

    def __init__(self, request: str, seconds: float) -> None:
        ApiError.__init__(self, f"{request} was left out: the server asks for no requests for another {seconds:.0f} s.")
