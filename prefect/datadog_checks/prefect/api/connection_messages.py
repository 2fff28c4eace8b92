"""Error messages for failed connections, by the error that requests and urllib3 wrap."""

from __future__ import annotations

import ssl

from .errors import (
    CertificateForAnotherName,
    CertificateOutOfDate,
    CertificateUntrusted,
    ClientCertificateWanted,
    ServerUnusable,
    TlsRefused,
)

# OpenSSL's codes for certificate errors (X509_V_ERR_…).
OUT_OF_DATE = frozenset({9, 10})
ANOTHER_NAME = frozenset({62, 64})
# Alerts that the other side sends about this side's certificate.
CLIENT_CERTIFICATE_ALERTS = ("CERTIFICATE_REQUIRED", "ALERT_HANDSHAKE_FAILURE", "UNKNOWN_CA", "ALERT_BAD_CERTIFICATE")

DEEPEST_CAUSE = 10
PLAIN_WORDS = {
    "RemoteDisconnected": "the connection was closed before an answer",
    "IncompleteRead": "the response was cut off",
    "error": "the response cannot be decompressed",  # zlib's
}


def innermost(error: BaseException) -> BaseException:
    """The innermost wrapped error. Messages use it because the outer ones may contain a proxy's password."""
    cause = error
    for _ in range(DEEPEST_CAUSE):
        cause = _inner_cause(cause) or cause
    return cause


def tls_error(url: str, cause: BaseException) -> ServerUnusable:
    """The error to raise when TLS fails."""
    if isinstance(cause, ssl.SSLCertVerificationError):
        words = getattr(cause, "verify_message", "") or type(cause).__name__
        code = getattr(cause, "verify_code", 0)
        if code in OUT_OF_DATE:
            return CertificateOutOfDate(url, words)
        return CertificateForAnotherName(url, words) if code in ANOTHER_NAME else CertificateUntrusted(url, words)
    reason = getattr(cause, "reason", None)
    if isinstance(reason, str) and any(alert in reason for alert in CLIENT_CERTIFICATE_ALERTS):
        return ClientCertificateWanted(url, reason.lower().replace("_", " "))
    return TlsRefused(url, plain_words(cause))


def plain_words(cause: BaseException) -> str:
    """The cause in words for a user; the name of its type if there are none."""
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return PLAIN_WORDS.get(type(cause).__name__, type(cause).__name__)


def _inner_cause(error: BaseException) -> BaseException | None:
    """The error that this one wraps, in any of the ways that requests and urllib3 use."""
    candidates = (getattr(error, "reason", None), *error.args, error.__cause__, error.__context__)
    return next((inner for inner in candidates if isinstance(inner, BaseException) and inner is not error), None)
