"""The structure of a JPEG: its kind, and whether nothing but its end marker is missing."""

from __future__ import annotations

import hashlib
import io
import re
import struct
from collections.abc import Iterator

from PIL import Image

from kt_batch.store.images.samples import DECODER_ERRORS

# Frame headers that are supported with 8 bits a sample: baseline, extended, progressive, lossless, and two with
# arithmetic coding. The others are hierarchical, or JPEG-LS.
_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xCA})
_NO_FRAMES = frozenset({0xC4, 0xC8, 0xCC})  # tables with numbers in the same range
_FRAME_OF_JPEG_LS, _SCAN, _END = 0xF7, 0xDA, b"\xff\xd9"

_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # coded pixels hold FF00 and restart markers alone
_COEFFICIENTS = 64

# Coded pixels whose bits differ everywhere, and the same behind restart markers, which a decoder may be waiting for.
_PATTERNS = (b"\x55" * 64, b"\xaa" * 64)
_RESTARTS = [bytes((0xFF, 0xD0 + number)) for number in range(8)]
_FILLINGS = [pattern * 64 for pattern in _PATTERNS]
_FILLINGS += [b"".join(restart + pattern for restart in _RESTARTS) * 8 for pattern in _PATTERNS]


def other_kind(data: bytes) -> str | None:
    """Name the kind of an unsupported JPEG by its first frame header; None otherwise."""
    for marker, at, _ in segments_of(data):
        if not _is_frame(marker) or len(data) < at + 5:
            continue
        bits = data[at + 4]
        known = marker in _FRAMES and bits == 8
        return None if known else f"a JPEG of {bits} bits a sample with frame {marker:#x}"
    return None


def with_end(data: bytes) -> bytes | None:
    """Return a JPEG with its missing end marker; None where more is missing, or nothing.

    A decoder takes what follows the last pixel for nothing, and what stands in place of a missing pixel for a pixel.
    So the pixels are all there when they are the same whatever stands before the end marker.
    """
    if data.endswith(_END) or not _has_all_scans(data):
        return None
    whole = data.rstrip(b"\xff")
    try:
        pixels = _digest(whole + _END)
        different = any(_digest(whole + filling + _END) != pixels for filling in _FILLINGS)
    except DECODER_ERRORS:
        return None
    return None if different else whole + _END


def _digest(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        return hashlib.sha256(image.tobytes()).digest()


def _has_all_scans(data: bytes) -> bool:
    """Tell whether scans have been begun for every bit of every coefficient that the frame declares."""
    missing: dict[int, list[int]] = {}
    for marker, at, end in segments_of(data):
        content = data[at + 4 : end]
        if _is_frame(marker) and len(content) >= 6:
            parts = range(6, min(len(content), 6 + 3 * content[5]), 3)
            missing = {content[part]: [1] * _COEFFICIENTS for part in parts}
        elif marker == _SCAN and len(content) >= 4 and len(content) == 4 + 2 * content[0]:
            first, last, low_bit = content[-3], content[-2], content[-1] & 15
            for part in range(1, 1 + 2 * content[0], 2):
                bits = missing.get(content[part], [])
                bits[first : last + 1] = [low_bit] * len(bits[first : last + 1])
    return bool(missing) and not any(any(bits) for bits in missing.values())


def segments_of(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, place and end of each segment, up to the end marker; coded pixels are passed over."""
    at = 2
    while data[at : at + 1] == b"\xff" and len(data) >= at + 4:
        if data[at + 1] == 0xFF:  # markers may be preceded by any number of these
            at += 1
            continue
        marker, length = struct.unpack_from(">xBH", data, at)
        if marker == _END[1]:
            return
        end = at + 2 + length
        yield marker, at, end
        if marker == _SCAN:
            following = _NEXT_MARKER.search(data, end)
            end = following.start() if following else len(data)
        at = end


def _is_frame(marker: int) -> bool:
    return (0xC0 <= marker <= 0xCF and marker not in _NO_FRAMES) or marker == _FRAME_OF_JPEG_LS
