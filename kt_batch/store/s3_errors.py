"""Classify the errors of an S3 client: transient ones, and those that concern the whole bucket."""

from __future__ import annotations

import aiohttp
from botocore import exceptions as botocore_errors

REFUSED = ("PreconditionFailed", "412")
UNTOLD = ("400", "403")  # answers to a HEAD, which have no body and so no code
BEYOND = ("InvalidRange", "416")
# Answers that allow a retry: overload, a fault of the store, or another conditional put of the name in progress.
OVERLOADED = ("SlowDown", "ServiceUnavailable", "Throttling", "ThrottlingException", "503")
_STUMBLED = ("InternalError", "RequestTimeout", "500", "502", "504")
_TRANSIENT = (*OVERLOADED, *_STUMBLED, "ConditionalRequestConflict")
# Answers that hold for the whole bucket until somebody creates it or changes the credentials.
_LOCKED_OUT = (
    "NoSuchBucket",
    "AccountProblem",
    "AllAccessDisabled",
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestExpired",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
    "UserSuspended",
)
_CUT = (
    ConnectionError,
    TimeoutError,
    aiohttp.ClientPayloadError,
    botocore_errors.ConnectionError,
    botocore_errors.ConnectionClosedError,
    botocore_errors.ReadTimeoutError,
    botocore_errors.IncompleteReadError,
    botocore_errors.ResponseStreamingError,
)
_NO_CREDENTIALS = (
    botocore_errors.CredentialRetrievalError,
    botocore_errors.NoCredentialsError,
    botocore_errors.PartialCredentialsError,
    botocore_errors.TokenRetrievalError,
    botocore_errors.UnauthorizedSSOTokenError,
)
NEVER_THERE = (botocore_errors.EndpointConnectionError, botocore_errors.ConnectTimeoutError)
FAILURES = (OSError, botocore_errors.BotoCoreError, botocore_errors.ClientError, aiohttp.ClientError)


def is_transient(error: BaseException) -> bool:
    """Tell whether a retry may help.

    It may after a cut or silent connection, and with an overloaded or failing store.
    """
    code = error_code(error)
    if code is not None:
        return code in _TRANSIENT
    return isinstance(error, _CUT) and not isinstance(error, botocore_errors.SSLError)


def is_unreachable(error: BaseException) -> bool:
    """Tell whether an error means that nothing in the bucket can be read now.

    The error must answer a request that is about no object in particular. It means so when it is transient and all
    retries are spent, or when access is denied to everything.
    """
    if error_code(error) in _LOCKED_OUT:
        return True
    return is_transient(error) or isinstance(error, (*_NO_CREDENTIALS, botocore_errors.SSLError))


def error_code(error: BaseException | None) -> str | None:
    """Return the store's error code, such as NoSuchKey; None when it never answered."""
    for candidate in (error, getattr(error, "__cause__", None)):
        response = getattr(candidate, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", "unknown"))
    return None


def reason_of(error: BaseException) -> str:
    """Return why a request failed, without the client's own words."""
    code = error_code(error)
    if isinstance(error, PermissionError):
        return f"access was denied ({code})"
    return f"the store answered {code}" if code else f"the request failed with {type(error).__name__}"
