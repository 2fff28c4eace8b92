"""What to say of a connection that fails, by the error that requests and urllib3 wrap in theirs."""

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

# OpenSSL's codes for what is wrong with a certificate (X509_V_ERR_…).
OUT_OF_DATE = frozenset({9, 10})
ANOTHER_NAME = frozenset({62, 64})
# What the other side's alerts are called that are about this side's certificate.
CLIENT_CERTIFICATE_ALERTS = ("CERTIFICATE_REQUIRED", "ALERT_HANDSHAKE_FAILURE", "UNKNOWN_CA", "ALERT_BAD_CERTIFICATE")

DEEPEST_CAUSE = 10
PLAIN_WORDS = {
    "RemoteDisconnected": "the connection was closed before an answer",
    "IncompleteRead": "the answer broke off",
    "error": "the answer cannot be unpacked",  # zlib's
}


def innermost(error: BaseException) -> BaseException:
    """The error that others wrap; the libraries' own texts may hold a proxy's password."""
    cause = error
    for _ in range(DEEPEST_CAUSE):
        cause = _inner_cause(cause) or cause
    return cause


def tls_error(url: str, cause: BaseException) -> ServerUnusable:
    """What to say of a connection on which TLS failed."""
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
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return PLAIN_WORDS.get(type(cause).__name__, type(cause).__name__)


def _inner_cause(error: BaseException) -> BaseException | None:
    """The error that this one wraps, in one of the ways in which requests and urllib3 do it."""
    candidates = (getattr(error, "reason", None), *error.args, error.__cause__, error.__context__)
    return next((inner for inner in candidates if isinstance(inner, BaseException) and inner is not error), None)
