"""JSON documents of libraries, runs and weight files, which anyone may have written: bounded, strict, one error."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any, NoReturn

from kt_batch.errors import DamagedError
from kt_batch.store.locations import Location, read_bounded

MOST_BYTES = 16 << 20  # of a document whose size does not depend on the number of images

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_document(location: Location, name: str, most: int = MOST_BYTES) -> dict[str, Any]:
    """Read the JSON object under a name.

    Raises:
        MissingError: nothing is there.
        DamagedError: it has more than `most` bytes, or is no JSON object.
    """
    return parse_document(read_bounded(location, name, most), f"{location.uri}/{name}")


def parse_document(data: bytes | str, where: str) -> dict[str, Any]:
    """Parse a JSON object.

    Args:
        data: The text; bytes are UTF-8.
        where: Name of the document in error messages.

    Raises:
        DamagedError: it is no JSON, is nested too deeply, repeats a key, or holds what is no JSON value (NaN, infinity,
            an integer of thousands of digits, half a character); or it is no object.
    """
    try:
        text = data if isinstance(data, str) else data.decode()
        content = json.loads(
            text, object_pairs_hook=_without_repeats, parse_constant=_refuse_constant, parse_float=_finite
        )
        if _SURROGATE.search(text):
            json.dumps(content, ensure_ascii=False).encode()
    except RecursionError as error:
        raise DamagedError(f"{where} is nested too deeply to be a document of ours") from error
    except ValueError as error:
        raise DamagedError(f"{where} is not readable as JSON: {_reason(error)}") from error
    if not isinstance(content, dict):
        raise DamagedError(f"{where} holds a JSON {type(content).__name__}; allowed is an object")
    return content


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        repeated = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {repeated[:64]!r} stands there twice")
    return content


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON value")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:64]} is too large")
    return value


def _reason(error: ValueError) -> str:
    if isinstance(error, UnicodeError):
        return "it holds text that is not UTF-8"
    return str(error).partition(";")[0].splitlines()[0]
