"""ICC profiles as bytes: the tags of one that came with an image, and new ones with three primaries and one curve.

The format is ICC.1:2022 (profile version 4.4). Profiles that are written here are of version 4.3 and always the same
bytes for the same values.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_TAGS, MAX_TAG = 256, 2**18  # more tags, and more bytes of one, are not looked at; profiles have about twenty tags
D50 = (0.9642, 1.0, 0.8249)

_HEADER = 128
_PARAMETERS = (1, 3, 4, 5, 7)  # of the kinds of parametric curves
_LARGEST = 32767.0  # of a signed 15.16 number


def data_space(profile: bytes) -> bytes:
    """Return the signature of the colour space of the device, such as `b"RGB "`."""
    return profile[16:20]


def tags_of(profile: bytes) -> dict[bytes, bytes]:
    """Return the tags of a profile by signature; one that points outside the profile is left out, a long one is cut."""
    if len(profile) < _HEADER + 4:
        return {}
    (count,) = struct.unpack_from(">I", profile, _HEADER)
    tags: dict[bytes, bytes] = {}
    for at in range(_HEADER + 4, min(_HEADER + 4 + 12 * min(count, MAX_TAGS), len(profile) - 11), 12):
        signature, offset, size = struct.unpack_from(">4sII", profile, at)
        if offset + size <= len(profile):
            tags.setdefault(signature, profile[offset : offset + min(size, MAX_TAG)])
    return tags


def coding_points(tags: Mapping[bytes, bytes]) -> tuple[int, int] | None:
    """Return the numbers of ITU-T H.273 for primaries and transfer function in the tag `cicp`; None without one."""
    tag = tags.get(b"cicp", b"")
    return (tag[8], tag[9]) if tag[:4] == b"cicp" and len(tag) >= 12 else None


def colorants_of(tags: Mapping[bytes, bytes]) -> NDArray[np.float64] | None:
    """Return the XYZ of red, green and blue as the columns of a (3, 3) matrix, adapted to D50; None without them."""
    columns = []
    for name in (b"rXYZ", b"gXYZ", b"bXYZ"):
        tag = tags.get(name, b"")
        if tag[:4] != b"XYZ " or len(tag) < 20:
            return None
        columns.append([value / 65536 for value in struct.unpack_from(">3i", tag, 8)])
    return np.array(columns).T


def sampled_curve(tag: bytes, at: NDArray[Any]) -> NDArray[np.float64] | None:
    """Evaluate a curve that is a table at places in [0, 1]; None for a curve of another kind."""
    if tag[:4] != b"curv" or len(tag) < 12:
        return None
    (count,) = struct.unpack_from(">I", tag, 8)
    if count < 2 or len(tag) < 12 + 2 * count:  # linear, a gamma, or damaged
        return None
    table = np.frombuffer(tag, ">u2", count, 12) / 65535
    return np.asarray(np.interp(at * (count - 1), np.arange(count), table))


def curve(tag: bytes, at: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Evaluate a curve of any kind at places in [0, 1], clipped to [0, 1]; None for a damaged one."""
    values = sampled_curve(tag, at)
    if values is None and tag[:4] == b"curv" and len(tag) >= 12:
        (count,) = struct.unpack_from(">I", tag, 8)
        if count == 1 and len(tag) >= 14:
            values = at ** (struct.unpack_from(">H", tag, 12)[0] / 256)
        elif count == 0:
            values = at
    elif values is None and tag[:4] == b"para" and len(tag) >= 12:
        values = _parametric(tag, at)
    return None if values is None else np.clip(values, 0.0, 1.0)


def _parametric(tag: bytes, x: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Evaluate one of the five functions of ICC.1:2022, 10.18."""
    (kind,) = struct.unpack_from(">H", tag, 8)
    if kind > 4 or len(tag) < 12 + 4 * _PARAMETERS[kind]:
        return None
    numbers = [value / 65536 for value in struct.unpack_from(f">{_PARAMETERS[kind]}i", tag, 12)]
    g, a, b, c, d, e, f = numbers[0], 1.0, 0.0, 0.0, 0.0, 0.0, 0.0
    if kind in (1, 2):
        a, b = numbers[1:3]
        if a == 0:
            return None
        e = f = numbers[3] if kind == 2 else 0.0
        d = -b / a
    elif kind > 2:
        a, b, c, d = numbers[1:5]
        e, f = numbers[5:7] if kind == 4 else (0.0, 0.0)
    with np.errstate(all="ignore"):  # what is not finite is for the caller to refuse
        return np.where(x >= d, np.maximum(a * x + b, 0.0) ** g + e, c * x + f)


def matrix_profile(name: str, colorants: NDArray[np.float64], curve: Sequence[float]) -> bytes:
    """Return an RGB profile.

    Args:
        name: Its description.
        colorants: (3, 3) XYZ of red, green and blue as columns, adapted to D50.
        curve: One parameter g for x ** g, or five g, a, b, c, d for (a x + b) ** g from d on and c x below.

    Raises:
        ValueError: A number is too large for a profile.
    """
    tags = {key: _xyz(colorants[:, column]) for column, key in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    return _profile(b"RGB ", name, {**tags, **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _curve(curve))})


def grey_profile(name: str, curve: Sequence[float]) -> bytes:
    """Return a grey profile; the arguments are those of `matrix_profile`."""
    return _profile(b"GRAY", name, {b"kTRC": _curve(curve)})


def _profile(space: bytes, name: str, tags: Mapping[bytes, bytes]) -> bytes:
    texts = {b"desc": _text(name), b"cprt": _text("CC0"), b"wtpt": _xyz(D50)}
    directory, body, places = b"", b"", {}
    start = _HEADER + 4 + 12 * (len(texts) + len(tags))
    for signature, content in {**texts, **tags}.items():
        if content not in places:  # curves that are equal are stored once
            places[content] = start + len(body)
            body += content + bytes(-len(content) % 4)
        directory += struct.pack(">4sII", signature, places[content], len(content))
    directory = struct.pack(">I", len(texts) + len(tags)) + directory
    header = struct.pack(">I4s4s4s4s4s", start + len(body), b"", b"\x04\x30\0\0", b"mntr", space, b"XYZ ")
    header += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp").ljust(68 - len(header), b"\0")
    return (header + _numbers(D50)).ljust(_HEADER, b"\0") + directory + body


def _text(text: str) -> bytes:
    content = text.encode("utf-16-be")
    return struct.pack(">4s4xII2s2sII", b"mluc", 1, 12, b"en", b"US", len(content), 28) + content


def _curve(parameters: Sequence[float]) -> bytes:
    kind = {1: 0, 5: 3}[len(parameters)]  # the function types of a parametric curve
    return struct.pack(">4s4xHxx", b"para", kind) + _numbers(parameters)


def _xyz(values: Sequence[float] | NDArray[np.float64]) -> bytes:
    return b"XYZ \0\0\0\0" + _numbers(values)


def _numbers(values: Sequence[float] | NDArray[np.float64]) -> bytes:
    if not all(abs(value) < _LARGEST for value in values):  # also refuses NaN
        raise ValueError(f"a profile holds numbers below {_LARGEST:g}, not {list(values)}")
    return b"".join(struct.pack(">i", round(float(value) * 65536)) for value in values)
