"""The rows of a picture that Pillow has decoded, made an array band by band."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


class PillowRows:
    """Samples `(height, width, samples)` uint8 of a picture; its pixels are in memory once, as Pillow holds them."""

    dtype = np.dtype(np.uint8)

    def __init__(self, picture: Image.Image) -> None:
        self._picture = picture
        self.shape = (picture.height, picture.width, len(picture.getbands()))

    def __getitem__(self, part: slice) -> NDArray[Any]:
        """Return the rows of a slice whose step is 1."""
        top, bottom, _ = part.indices(self.shape[0])
        band = self._picture.crop((0, top, self.shape[1], bottom))
        return np.asarray(band).reshape(bottom - top, *self.shape[1:])
