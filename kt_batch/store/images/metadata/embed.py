"""Write metadata into encoded files, without touching their pixels."""

from __future__ import annotations

from typing import Any

from kt_batch.errors import UsageError
from kt_batch.store.images.metadata import jpeg, png, tiff, webp
from kt_batch.store.images.metadata.blocks import Blocks

_WRITERS = {"jpg": jpeg.embed, "png": png.embed, "webp": webp.embed, "tif": tiff.embed}


def embed(data: bytes, format: str, blocks: Blocks) -> bytes:  # noqa: A002
    """Return an encoded file with metadata; without any it is the same bytes.

    Args:
        data: A file that an encoder of ours has finished.
        format: `jpg`, `png`, `webp` or `tif`. The encoder of AVIF takes metadata by itself, see `avif_options`.
        blocks: What to embed. A profile replaces the statements about colour that the file holds.

    Raises:
        UsageError: Another format.
    """
    writer = _WRITERS.get(format)
    if writer is None:
        raise UsageError(f"cannot write metadata into {format!r}; allowed are {', '.join(_WRITERS)}")
    return writer(data, blocks)


def avif_options(blocks: Blocks) -> dict[str, Any]:
    """Return the options with which Pillow writes metadata into AVIF, which has no place for IPTC."""
    every = {"exif": blocks.exif, "xmp": blocks.xmp, "icc_profile": blocks.icc}
    return {name: block for name, block in every.items() if block}
