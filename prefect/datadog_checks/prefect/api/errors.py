"""What can go wrong between the check and a Prefect server, with messages that a user can act on.

No message contains credentials: messages are built from statuses and the configured URL, which must not have any.
"""

from __future__ import annotations

from collections.abc import Sequence

from datadog_checks.prefect.credentials import HEADER_OPTIONS

# Options that are set together, by the one that stands for them.
TOGETHER = {"username": ("username", "password"), "tls_cert": ("tls_cert", "tls_private_key")}


class ApiError(Exception):
    """A request failed, retries included."""


class ServerUnusable(ApiError):
    """No request to this URL can succeed, so that the check run ends. `remedy` says what to do."""

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(f"{cause}. {remedy}")
        self.cause = cause
        self.remedy = remedy


class Unreachable(ServerUnusable):
    """No connection, or no answer in time."""

    def __init__(self, url: str, cause: str) -> None:
        super().__init__(
            f"Prefect's API at {url} cannot be reached: {cause}",
            "Check that the server is up, and that this Agent can reach it at the address in `prefect_url`.",
        )


class TlsFailed(ServerUnusable):
    """TLS cannot be established."""


class CertificateRefused(TlsFailed):
    """The server's certificate is not accepted."""

    def __init__(self, url: str, cause: str, remedy: str) -> None:
        super().__init__(f"TLS with {url} failed: the certificate is not accepted ({cause})", remedy)


class CertificateUntrusted(CertificateRefused):
    """The certificate is self-signed, or signed by an authority that this host does not trust."""

    def __init__(self, url: str, cause: str) -> None:
        super().__init__(
            url,
            cause,
            "It is not trusted: set `tls_ca_cert` to the CA certificate that signed it, or to the certificate itself "
            "if it is self-signed.",
        )


class CertificateOutOfDate(CertificateRefused):
    """The certificate has expired or is not valid yet."""

    def __init__(self, url: str, cause: str) -> None:
        super().__init__(
            url,
            cause,
            "It has expired or is not valid yet: renew the server's or the proxy's certificate, or correct this host's "
            "clock.",
        )


class CertificateForAnotherName(CertificateRefused):
    """The certificate is for another host name or address."""

    def __init__(self, url: str, cause: str) -> None:
        super().__init__(
            url,
            cause,
            "It is for another name: set `prefect_url` to a name in the certificate, or issue a certificate for this "
            "name.",
        )


class ClientCertificateWanted(TlsFailed):
    """The other side requires a client certificate, or refuses the one that is configured."""

    def __init__(self, url: str, cause: str) -> None:
        super().__init__(
            f"TLS with {url} failed: the server or a proxy requires a client certificate that it trusts ({cause})",
            "Set `tls_cert`, and `tls_private_key` if the key is in a separate file.",
        )


class TlsFilesUnusable(TlsFailed):
    """A file named in the TLS options is missing, unreadable or not what it should be."""

    def __init__(self, url: str, cause: str) -> None:
        super().__init__(
            f"TLS with {url} cannot start: {cause}",
            "Check that `tls_ca_cert`, `tls_cert` and `tls_private_key` are PEM files that the Agent can read, and "
            "that the key belongs to the certificate.",
        )


class TlsRefused(TlsFailed):
    """The other side does not use TLS, or both sides share no protocol or cipher."""

    def __init__(self, url: str, cause: str) -> None:
        plain = url.replace("https://", "http://", 1)
        super().__init__(
            f"TLS with {url} failed: {cause}",
            f"If the server uses plain HTTP at this port, set `prefect_url` to {plain}. Otherwise, check "
            "`tls_protocols_allowed` and `tls_ciphers`, and set `tls_cert` if a client certificate is required.",
        )


class AccessDenied(ServerUnusable):
    """Status 401, 403 or 407. `options` are the options that set the credentials."""

    def __init__(self, url: str, status: int, options: Sequence[str] = ()) -> None:
        if options:
            named = " and ".join(f"`{option}`" for name in options for option in TOGETHER.get(name, (name,)))
            remedy = f"Set {named} to what the server, or a proxy in front of it, expects."
            if set(options) <= set(HEADER_OPTIONS):
                # The headers may be for a proxy, or hold no credentials at all.
                remedy += " If the server itself has a password, set `auth_string`."
        else:
            remedy = (
                "Set `username` and `password`, or `auth_string`, to what the server expects; `api_key` for Prefect "
                "Cloud; `headers` for a proxy."
            )
        super().__init__(f"Prefect's API at {url} refused access with status {status}", remedy)


class CsrfTokenRefused(ServerUnusable):
    """The server refuses a CSRF token that it issued a moment ago."""

    def __init__(self, url: str, status: int) -> None:
        super().__init__(
            f"Prefect's API at {url} refused its own CSRF token with status {status}",
            "A proxy in front of it must pass on the headers Prefect-Csrf-Token and Prefect-Csrf-Client; servers "
            "behind a load balancer must share one database.",
        )


class NotPrefect(ServerUnusable):
    """Something answers at this URL, but it is not Prefect's API."""

    def __init__(self, url: str, found: str) -> None:
        remedy = "Set `prefect_url` to the address of Prefect's API"
        if not url.rstrip("/").endswith("/api") and "/workspaces/" not in url:
            remedy += f", usually {url.rstrip('/')}/api"
        super().__init__(f"{url} is not Prefect's API: {found}", f"{remedy}.")


class TokenUnavailable(ServerUnusable):
    """The option `auth_token` provides no token."""

    def __init__(self, source: str, cause: str) -> None:
        super().__init__(
            f"`auth_token` gives no token from {source}: {cause}",
            "Correct the settings of its `reader`, or the file or server that they name.",
        )


class UnsupportedVersion(ServerUnusable):
    """A server older than Prefect 3, which has another API."""

    def __init__(self, url: str, version: str) -> None:
        super().__init__(
            f"The server at {url} runs Prefect {version}; this check needs Prefect 3 or newer",
            "Upgrade the server.",
        )


class Redirected(ServerUnusable):
    """A redirect, which is not followed: a POST might become a GET, and another host would receive the credentials.

    `elsewhere`: whether it leads to another path than the requested one, for example to a login page.
    """

    def __init__(self, url: str, target: str, elsewhere: bool = False) -> None:
        remedy = "Redirects are not followed: set `prefect_url` to the final address of the API."
        if elsewhere:
            remedy = (
                "Redirects are not followed. If this is a proxy's login page, set the credentials that the proxy "
                "accepts from programs (`headers`, `username` and `password`, or `tls_cert`); otherwise, set "
                "`prefect_url` to the address of the API."
            )
        super().__init__(f"{url} redirects to {target}", remedy)


class RequestFailed(ApiError):
    """One kind of request fails; others may succeed."""

    def __init__(self, request: str, cause: str) -> None:
        super().__init__(f"{request} failed: {cause}")


class Rejected(RequestFailed):
    """An error status that no other class stands for, such as 404, 422 or 500. `detail` is the server's reason."""

    def __init__(self, request: str, status: int, detail: str) -> None:
        super().__init__(request, f"status {status} {detail}".rstrip())
        self.status = status
        self.detail = detail


class UnexpectedAnswer(RequestFailed):
    """A response that does not have the form that Prefect documents."""


class UnreadableAnswer(UnexpectedAnswer):
    """A response that is too large or nested too deeply. A smaller page may be readable."""


class OutOfTime(ApiError):
    """No time is left for a request: of the whole check run (`of_run`), or of the current share of it."""

    def __init__(self, request: str, budget_seconds: float, of_run: bool = True) -> None:
        what = f"the check run's {budget_seconds:g} s"
        super().__init__(
            f"{request} was left out: {f'{what} were' if of_run else f'its share of {what} was'} used up. "
            "Raise `min_collection_interval` to give it more time."
        )


class NoAnswerInTime(OutOfTime):
    """The server did not answer a request within the time that was left for it."""

    def __init__(self, request: str, seconds: float) -> None:
        ApiError.__init__(
            self, f"{request} was not answered within {seconds:.3g} s. It is sent again in the next check run."
        )


class LeftAlone(OutOfTime):
    """The server asked, by `Retry-After`, for a pause that is longer than the time that is left."""

    def __init__(self, request: str, seconds: float) -> None:
        ApiError.__init__(self, f"{request} was left out: the server asked for a pause of another {seconds:.0f} s.")
