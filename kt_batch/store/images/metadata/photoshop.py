"""IPTC in its wrapper, the image resources of Photoshop.

Source: Adobe Photoshop file formats specification, image resource blocks; IPTC-NAA IIM 4.2.
"""

from __future__ import annotations

import struct

import numpy as np

IPTC_RESOURCE = 0x0404
_SIGNATURE, _MARKER, _EXTENDED = b"8BIM", b"\x1c", 0x8000
_MAX_RESOURCES = 1024


def iptc_of(resources: bytes) -> bytes | None:
    """Return the records of IPTC in image resources; None without any."""
    at = 0
    for _ in range(_MAX_RESOURCES):
        if resources[at : at + 4] != _SIGNATURE or len(resources) < at + 12:
            return None
        number, name = struct.unpack_from(">HB", resources, at + 4)
        at += 6 + name + 1 + (name + 1) % 2
        if len(resources) < at + 4:
            return None
        (size,) = struct.unpack_from(">I", resources, at)
        if number == IPTC_RESOURCE:
            return sound_iptc(resources[at + 4 : at + 4 + size]) if len(resources) >= at + 4 + size else None
        at += 4 + size + size % 2
    return None


def sound_iptc(records: bytes) -> bytes | None:
    """Return the records that are whole, without what follows them; None without any.

    Some writers of TIFF turn the 4-byte words of records around.
    """
    if records[:1] != _MARKER and records[3:4] == _MARKER:
        records = np.frombuffer(records, np.uint32, len(records) // 4).byteswap().tobytes()
    at = 0
    while records[at : at + 1] == _MARKER and len(records) >= at + 5:
        (size,) = struct.unpack_from(">H", records, at + 3)
        start = at + 5
        if size & _EXTENDED:  # the number of bytes that hold the length
            start += size & ~_EXTENDED
            size = int.from_bytes(records[at + 5 : start], "big") if start - at <= 5 + 8 else len(records)
        if start + size > len(records):
            break
        at = start + size
    return records[:at] or None


def wrapped(iptc: bytes) -> bytes:
    """Return records of IPTC as image resources."""
    return _SIGNATURE + struct.pack(">HxxI", IPTC_RESOURCE, len(iptc)) + iptc + bytes(len(iptc) % 2)
