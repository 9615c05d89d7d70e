"""Read the text that a person writes for a place: schemes and their spellings, `~`, and relative paths.

Credentials in a place are refused. This module opens nothing.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from kt_batch.errors import UsageError
from kt_batch.redaction import has_credentials, redacted

S3 = "s3://"
ANONYMOUS = "AWS_NO_SIGN_REQUEST"  # environment: requests to S3 without credentials; GDAL has both names, too
REQUESTER_PAYS = "AWS_REQUEST_PAYER"  # environment: the reader of a bucket pays for the requests

ARCHIVE_FORMS = ("tar", "zip")
MEMBER_SCHEMES = frozenset(
    f"{form}+{scheme}" for form in ARCHIVE_FORMS for scheme in ("file", "s3", "gs", "az", "http", "https")
)  # of members of archives: `store/members.py`

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,31})://")
_ALIASES = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "abfs": "az", "abfss": "az"}


def scheme_of(text: str) -> str | None:
    """Return the scheme of a URI in lower case, `s3` for s3a and s3n; None for a plain path."""
    match = _SCHEME.match(text)
    return None if match is None else _ALIASES.get(match[1].lower(), match[1].lower())


def clean_place(text: str) -> str:
    """Return a place with the usual spelling of its scheme and with `~` replaced by the home directory.

    Raises:
        UsageError: it holds credentials, which are not repeated, or the user after `~` is unknown.
    """
    scheme = scheme_of(text)
    if scheme is None:
        return expand_home(text)
    _refuse_credentials(scheme, text)
    return f"{scheme}://{text.partition('://')[2]}"


def expand_home(text: str) -> str:
    """Replace a leading `~` or `~user` of a path by the home directory.

    Raises:
        UsageError: the user or the home directory is unknown.
    """
    if not text.startswith("~"):
        return text
    expanded = os.path.expanduser(text)  # noqa: PTH111 - pathlib would also normalise the rest
    if expanded.startswith("~"):
        user = text.split("/", maxsplit=1)[0]
        raise UsageError(f"the home directory {user!r} is unknown; for a file of such a name write './{text}'")
    return expanded


def expand_word(word: str) -> str:
    """Do as `expand_home` in a word of a command line, also in `--option=~/path`, which shells leave as it is."""
    option, equals, value = word.partition("=")
    return f"{option}={expand_home(value)}" if word.startswith("--") and equals else expand_home(word)


def absolute_path(text: str) -> str:
    """Return a plain path so that it names the same place from any working directory.

    Workers have another working directory than the driver.

    Raises:
        UsageError: the path is relative, and the working directory is one that Ray unpacked for a job and removes.
    """
    path = expand_home(text)
    refuse_unpacked(path)
    return os.path.abspath(path)  # noqa: PTH100 - also removes `..`


def refuse_unpacked(path: str) -> None:
    """Raise UsageError for a relative path whose working directory Ray unpacked for a job and removes."""
    folder = Path.cwd() if not Path(path).is_absolute() else None
    if folder and any(part == "runtime_resources" or part.startswith("_ray_pkg_") for part in folder.parts):
        raise UsageError(
            f"the place {path!r} is relative and would be '{folder / path}', in a folder that Ray unpacked for this "
            "job and removes afterwards; give an absolute place, such as '/data/run' or 's3://bucket/run'"
        )


def origin_of(uri: str) -> str | None:
    """Return the store that a request for a URI goes to, as scheme://bucket or scheme://host; None for a file."""
    scheme = scheme_of(uri)
    if scheme in MEMBER_SCHEMES:
        return origin_of(uri.partition("+")[2])
    if scheme in (None, "file"):
        return None
    return f"{scheme}://{re.split(r'[/?#]', uri.partition('://')[2], maxsplit=1)[0]}"


def _refuse_credentials(scheme: str, text: str) -> None:
    if has_credentials(text):
        raise UsageError(
            f"a {scheme}:// place holds credentials ({redacted(text)}), which would stand in plans and logs; they are "
            "taken from the environment or a profile"
        )
