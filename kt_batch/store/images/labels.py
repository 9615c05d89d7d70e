"""Read label images: grey or palette PNG files whose values name regions, not colours."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kt_batch.errors import Reason, RejectError
from kt_batch.store.images.headers import PNG, check_pixels
from kt_batch.store.images.rasters import rejecting

Labels = NDArray[np.uint16]

STRIP = 256  # rows looked at at a time
MODES = ("1", "L", "P", "I;16", "I")  # of Pillow: one value a pixel
SPREAD = {"L;2": 85, "L;4": 17}  # by which Pillow multiplies grey values of few bits, so that white is 255


def decode_labels(data: bytes) -> Labels:
    """Decode a label image to the value of each pixel, `(H, W)`; of a palette, the number of the entry.

    Raises:
        RejectError: it is no grey or palette PNG, or damaged.
    """
    if not data.startswith(PNG):
        raise RejectError(Reason.MASK, f"it begins with {data[:8]!r}; allowed is PNG")
    with rejecting(data), Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        check_pixels(image.width, image.height, len(data))
        if image.mode not in MODES:
            raise RejectError(Reason.MASK, f"it is a PNG of the kind {image.mode}; allowed are grey and palette")
        spread = SPREAD.get(str(image.tile[0].args), 1)
        return np.array(image).astype(np.uint16) // np.uint16(spread)


def values_of(labels: Labels) -> NDArray[np.int64]:
    """Return the distinct values of labels, ascending."""
    seen = np.zeros(2**16, bool)
    for start in range(0, len(labels), STRIP):
        seen[labels[start : start + STRIP]] = True
    return np.flatnonzero(seen)


def labels_at(labels: Labels, width: int, height: int) -> Labels:
    """Return labels (h, w) at another size, (height, width): at each pixel those of the nearest one."""
    rows, columns = (
        (np.arange(pixels) * 2 + 1) * side // (2 * pixels)
        for pixels, side in zip((height, width), labels.shape, strict=True)
    )
    return np.ascontiguousarray(labels[rows][:, columns])


def same_aspect(columns: int, rows: int, width: int, height: int) -> bool:
    """Tell whether columns x rows labels can be those of width x height pixels, up to the rounding of sides."""
    return 2 * abs(columns * height - rows * width) <= max(rows + columns, width + height)
