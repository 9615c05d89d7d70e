"""The spaces that outputs are written in, and in which edits find a photograph: sRGB, matrices, tables of a profile."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kt_batch.errors import RejectError
from kt_batch.store.images.conversion import OUTPUT_PROFILES
from kt_batch.store.images.lcms import Floats
from kt_batch.store.images.matrix_space import matrix_space
from kt_batch.store.images.own_space import OwnSpace
from kt_batch.store.images.reader_process import ImageReaderProcess


class RgbSpace(Protocol):
    """An RGB space. profile: Its ICC profile."""

    profile: bytes

    def to_srgb(self, samples: NDArray[Any]) -> Floats:
        """Convert (h, w, 3) uint8 or uint16 of this space to sRGB; values outside [0, 1] are colours outside sRGB."""

    def from_srgb(self, colours: Floats) -> Floats:
        """Convert (h, w, 3) sRGB, also outside [0, 1], to this space in [0, 1]."""


class SrgbSpace:
    """sRGB, under any profile that means it."""

    def __init__(self, profile: bytes = OUTPUT_PROFILES["srgb"]) -> None:
        self.profile = profile

    def to_srgb(self, samples: NDArray[Any]) -> Floats:
        """Scale samples to [0, 1]."""
        colours: Floats = np.multiply(samples, np.float32(1 / np.iinfo(samples.dtype).max), dtype=np.float32)
        return colours

    def from_srgb(self, colours: Floats) -> Floats:
        """Clip colours to [0, 1]."""
        return np.clip(colours, 0.0, 1.0)


class TableSpace:
    """A space that only the tables of its profile describe. The colour engine converts, in the reader's process.

    Its tables end at the border of sRGB: colours outside are moved to it.
    """

    def __init__(self, profile: bytes, reader: ImageReaderProcess) -> None:
        self.profile = profile
        self._reader = reader

    def to_srgb(self, samples: NDArray[Any]) -> Floats:
        """Convert samples to sRGB in [0, 1]."""
        deep = samples.astype(np.uint16) * np.uint16(257) if samples.dtype == np.uint8 else samples
        return self._reader.converted(deep, self.profile, to_srgb=True) * np.float32(1 / 65535)

    def from_srgb(self, colours: Floats) -> Floats:
        """Convert colours, clipped to [0, 1]."""
        deep = (np.clip(colours, 0.0, 1.0) * np.float32(65535) + np.float32(0.5)).astype(np.uint16)
        return self._reader.converted(deep, self.profile, to_srgb=False) * np.float32(1 / 65535)


class RgbSpaces:
    """Finds spaces. Its own reader's process converts by tables; it starts when one is needed."""

    def __init__(self) -> None:
        self._reader = ImageReaderProcess()

    def own(self, space: OwnSpace) -> RgbSpace:
        """Return the space of a photograph's samples."""
        if space.is_srgb:
            return SrgbSpace(space.profile)
        return matrix_space(space.profile) or TableSpace(space.profile, self._reader)

    def for_output(self, wanted: str, own: OwnSpace | None) -> RgbSpace:
        """Return the space of an output.

        Args:
            wanted: `input`, `srgb` or `p3`.
            own: That of the photograph. Without one, and where its profile converts in one direction alone, `input` is
                sRGB.
        """
        if wanted == "p3":
            return self.own(OwnSpace(OUTPUT_PROFILES["p3"], is_srgb=False))
        space = self.own(own) if own and wanted == "input" else SrgbSpace()
        if isinstance(space, TableSpace):
            try:
                space.from_srgb(np.zeros((1, 1, 3), np.float32))
            except RejectError:
                return SrgbSpace()
        return space
