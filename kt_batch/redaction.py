"""Take credentials out of text that is shown or stored."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote

HIDDEN = "***"

# Words in the name of a query parameter whose value is a secret, and whole names.
_SECRET_WORDS = ("signature", "credential", "token", "secret", "passw", "apikey", "accesskey", "authorization")
_SECRET_NAMES = frozenset({
    "sig", "hmac", "key", "auth", "authkey", "tempauth", "privatekey", "resourcekey", "rlkey", "pwd", "pass", "jwt",
    "session", "sessionid", "policy", "hdnts", "hdnea",
})  # fmt: skip

# Every pattern is linear: no part of it can match what the part after it matches.
_URI_START = re.compile(r"(:/+)")
_PARAMETER = re.compile(r"([?&;#])([^?&;#=\s]*+)=([^&;#\s'\"]*+)")
_RUN = re.compile(r"\S*")
_AUTHORITY = re.compile(r"[^/?#]*")
_PORT = re.compile(r":\d*\Z")
_BUCKETS = ("s3", "s3a", "s3n", "S3", "S3A", "S3N")  # schemes in whose URIs a bucket stands where others have a port


def redacted(text: str) -> str:
    """Return `text` with `***` for the credentials in its URIs.

    They are a user with or without a password, and the values of query parameters such as `X-Amz-Signature` or `token`.
    """
    if ":/" in text:
        head, *rest = _URI_START.split(text)
        before = [head, *rest[1::2]]
        pieces = zip(before, rest[::2], rest[1::2], strict=False)
        text = head + "".join(slashes + _without_user(each, slashes, after) for each, slashes, after in pieces)
    if "=" in text:
        text = _PARAMETER.sub(_without_value, text)
    return text


def has_credentials(uri: str) -> bool:
    """Tell whether a URI holds a user, a password, a signature or a token."""
    return redacted(uri) != uri


def has_user(uri: str) -> bool:
    """Tell whether a URI holds a user or a password before its host."""
    scheme, slashes, after = [*_URI_START.split(uri, maxsplit=1), "", ""][:3]
    return _without_user(scheme, slashes, after) != after


def redacted_values(value: object) -> object:
    """Return a value of lists, mappings and text with every text redacted."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return {key: redacted_values(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [redacted_values(each) for each in value]
    return value


def _without_user(before: str, slashes: str, after: str) -> str:
    """Return what follows `://` without its user and password.

    Keys of AWS may hold a slash. Then the part before the first slash has a colon that no port follows.
    """
    run, authority = _first(_RUN, after), _first(_AUTHORITY, _first(_RUN, after))
    if "@" in authority:
        end = authority.rindex("@")
    elif ":" in authority and "@" in run and (before.endswith(_BUCKETS) or not _PORT.search(authority)):
        end = run.rindex("@")
    elif ":" in authority and before.endswith(_BUCKETS) and not authority.startswith("arn:"):
        end = len(authority)
    else:
        return after
    # A path such as `C:/a@b`; and abfs://container@account, which is the usual form.
    if ":" not in after[:end] and (slashes == ":/" or before.lower().endswith(("abfs", "abfss", "az"))):
        return after
    return HIDDEN + after[end:]


def _first(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.match(text)
    return match[0] if match else ""


def _without_value(match: re.Match[str]) -> str:
    separator, name, value = match.groups()
    return f"{separator}{name}={HIDDEN}" if value and _is_secret(name) else match[0]


def _is_secret(name: str) -> bool:
    plain = "".join(_letters(unquote(name)))
    return plain in _SECRET_NAMES or any(word in plain for word in _SECRET_WORDS)


def _letters(name: str) -> Iterator[str]:
    return (character for character in name.lower() if character.isalnum())
