"""The blocks in which a picture says something about itself, without the wrappers of file formats."""

from __future__ import annotations

from dataclasses import dataclass

from kt_batch.store.images.metadata import exif

MAX_BLOCK = 2**24  # bytes; a longer block is dropped
_ICC_HEADER = 128


@dataclass(frozen=True)
class Blocks:
    """Metadata of one picture.

    exif: a TIFF structure, without the name before it. xmp: a packet. iptc: records of IIM, without the resource of
    Photoshop around them. icc: a profile. None where there is none, or where it is damaged.
    """

    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    icc: bytes | None = None

    @property
    def capture_time(self) -> str | None:
        """Return when the picture was taken by EXIF, in ISO 8601; None if unknown."""
        return exif.capture_time(self.exif) if self.exif else None


def bounded(block: bytes | None) -> bytes | None:
    """Return a block; None for an empty or too long one."""
    return block if block and len(block) <= MAX_BLOCK else None


def sound_icc(block: bytes | None) -> bytes | None:
    """Return a profile; None where it is shorter than it says, or no profile."""
    if block is None or len(block) < _ICC_HEADER or block[36:40] != b"acsp":
        return None
    return bounded(block) if _ICC_HEADER <= int.from_bytes(block[:4], "big") <= len(block) else None


def sound_exif(block: bytes | None) -> bytes | None:
    """Return EXIF without the name that some writers put before it; None where it is no TIFF structure."""
    if block and block[:5] == b"Exif\0":
        block = block[6:]
    return bounded(block) if block and block[:4] in (b"II*\0", b"MM\0*") else None
