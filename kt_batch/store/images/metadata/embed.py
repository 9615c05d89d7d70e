"""Write metadata into encoded files, without touching their pixels."""

from __future__ import annotations

from kt_batch.errors import UsageError
from kt_batch.store.images.metadata import avif, jpeg, png, tiff, webp
from kt_batch.store.images.metadata.blocks import Blocks

_WRITERS = {"jpg": jpeg.embed, "png": png.embed, "webp": webp.embed, "tiff": tiff.embed, "avif": avif.embed}


def embed(data: bytes, format: str, blocks: Blocks) -> bytes:  # noqa: A002
    """Return an encoded file with metadata; without any it is the same bytes.

    Args:
        data: A file that an encoder of ours has finished.
        format: `jpg`, `png`, `webp`, `tiff` or `avif`. WebP and AVIF have no place for IPTC.
        blocks: What to embed. A profile replaces the statements about colour that the file holds; that of an AVIF is
            written by its encoder.

    Raises:
        UsageError: Another format, or an AVIF that has metadata or another profile.
    """
    writer = _WRITERS.get(format)
    if writer is None:
        raise UsageError(f"cannot write metadata into {format!r}; allowed are {', '.join(_WRITERS)}")
    return writer(data, blocks)
