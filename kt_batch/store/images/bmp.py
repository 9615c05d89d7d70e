"""The colour profile of a BMP, which its header of 124 bytes may hold (BITMAPV5HEADER)."""

from __future__ import annotations

import struct

_HEADER = 14  # where the header of the bitmap begins
_LENGTH = 124
_EMBEDDED = b"DEBM"  # PROFILE_EMBEDDED as it stands in the file


def profile_of(data: bytes) -> bytes | None:
    """Return the embedded ICC profile; None without one, or where it lies outside the file."""
    if len(data) < _HEADER + _LENGTH or struct.unpack_from("<I", data, _HEADER)[0] != _LENGTH:
        return None
    kind, offset, size = struct.unpack_from("<4s52xII", data, _HEADER + 56)
    start = _HEADER + offset
    if kind != _EMBEDDED or start + size > len(data):
        return None
    return data[start : start + size]
