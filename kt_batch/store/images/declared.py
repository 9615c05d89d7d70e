"""What the samples of an image take in memory, by the headers of any format that is read."""

from __future__ import annotations

from kt_batch.errors import RejectError
from kt_batch.store.images import headers, heif, jpeg2000, jpegxl, kinds, raw
from kt_batch.store.images.file_bytes import Data


def declared_bytes(data: Data) -> int:
    """Return the bytes of all samples of the first image, by its header; 0 when the header cannot be read.

    The header may lie. This is for a limit of memory, before anything is decoded.
    """
    try:
        match kinds.kind_of(data):
            case None:
                return headers.declared_bytes(data)
            case kinds.HEIF:
                return heif.declared(data[:]).bytes
            case kinds.JPEG_XL:
                return jpegxl.header_of(data[:]).bytes
            case kinds.JPEG_2000:
                return jpeg2000.header_of(data[:]).bytes
            case _:
                return raw.declared_bytes(data[:])
    except (RejectError, ValueError):  # decoding finds it again, and says it
        return 0
