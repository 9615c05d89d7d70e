"""The structure of a JPEG: its kind, the direction of its gain map, and whether only its end marker is missing."""

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

# What gain maps say of the main picture, by Adobe's XMP and by ISO 21496-1.
_BASE, _BASE_IS_BRIGHT = b"BaseRenditionIsHDR", re.compile(rb"BaseRenditionIsHDR\s*(?:=\s*[\"']|>)\s*[Tt]rue")
_ISO_GAIN_MAP = b"urn:iso:std:iso:ts:21496:-1\0"
_COMMON_DENOMINATOR = 8  # a flag of drafts of the standard

_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # coded pixels hold FF00 and restart markers alone
_COEFFICIENTS = 64

# Coded pixels whose bits differ everywhere, and the same behind restart markers, which a decoder may be waiting for.
_PATTERNS = (b"\x55" * 64, b"\xaa" * 64)
_RESTARTS = [bytes((0xFF, 0xD0 + number)) for number in range(8)]
_FILLINGS = [pattern * 64 for pattern in _PATTERNS]
_FILLINGS += [b"".join(restart + pattern for restart in _RESTARTS) * 8 for pattern in _PATTERNS]


def other_kind(data: bytes) -> str | None:
    """Name the kind of an unsupported JPEG by its first frame header; None otherwise."""
    for marker, at, _ in _segments(data):
        if not _is_frame(marker) or len(data) < at + 5:
            continue
        bits = data[at + 4]
        known = marker in _FRAMES and bits == 8
        return None if known else f"a JPEG of {bits} bits a sample with frame {marker:#x}"
    return None


def main_picture_is_bright(data: bytes) -> bool:
    """Tell whether a gain map makes the standard picture out of a main one of high dynamic range, and not the reverse.

    Args:
        data: A JPEG with all its pictures, or a block of XMP.
    """
    if (at := data.find(_BASE)) >= 0 and _BASE_IS_BRIGHT.search(data, at):
        return True
    at = data.find(_ISO_GAIN_MAP)
    while at >= 0:
        if _base_is_brighter(data, at):
            return True
        at = data.find(_ISO_GAIN_MAP, at + 1)
    return False


def _base_is_brighter(data: bytes, at: int) -> bool:
    """Compare the headrooms of the main and the other picture in a segment of ISO 21496-1, whose name is at `at`."""
    start = (
        at + len(_ISO_GAIN_MAP) + 4
    )  # two versions of 16 bits come first; the segment of the main picture ends there
    end = at - 2 + int.from_bytes(data[at - 2 : at], "big")
    if min(end, len(data)) < start + 17:
        return False
    numbers = struct.unpack_from(">4I", data, start + 1)
    if data[start] & _COMMON_DENOMINATOR:
        return bool(numbers[1] > numbers[2])
    base, base_denominator, other, other_denominator = numbers
    return bool(base * other_denominator > other * base_denominator)


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
    for marker, at, end in _segments(data):
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


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
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
