"""The samples of an image file, and what is needed to read them as colours."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any, TypeAlias

from numpy.typing import NDArray

from kt_batch.store.images.colour import SRGB, Space

# Errors that decoders raise for malformed bytes.
DECODER_ERRORS = (
    OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError,
    AssertionError, RuntimeError, struct.error, zlib.error,
)  # fmt: skip

Samples: TypeAlias = NDArray[Any]  # dtype as in the file


@dataclass(frozen=True)
class Raster:
    """Samples as they are in a file, with what is needed to read them as colours."""

    samples: Samples  # (height, width, channels [+ alpha] [+ ignored])
    channels: int  # of colour: 1 grey, 3 RGB, 4 CMYK as amounts of ink
    width: int  # of the file, before orientation; a JPEG may have been decoded smaller
    height: int
    white: float = 255.0  # the sample value that stands for 1
    alpha: bool = False
    premultiplied: bool = False
    inverted: bool = False  # 0 is white
    orientation: int = 1  # EXIF, 1..8
    space: Space = SRGB
