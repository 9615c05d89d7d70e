"""Apply an edit to photographs at their full size and depth, band by band."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from kt_batch.config import MethodConfig
from kt_batch.errors import Reason, RejectError, UsageError
from kt_batch.methods.base import Edit, Unchanged
from kt_batch.pipelines.inputs import read_image
from kt_batch.pipelines.translate.metadata import of_edit, space_of_edit
from kt_batch.store.images.conversion import OUTPUT_PROFILES, from_srgb
from kt_batch.store.images.file_bytes import Data
from kt_batch.store.images.originals import Bands, Original
from kt_batch.store.images.reader_process import ImageReaderProcess
from kt_batch.store.images.writers import (
    DEEP_FORMATS,
    FORMATS_WITH_GREY,
    FORMATS_WITH_INK,
    check_format,
    to_eight_bits,
    to_samples,
    write_image,
)
from kt_batch.store.plans import Item
from kt_batch.store.scratch import temporary_directory

_ATTEMPTS = 2  # a reader's process may be ended from outside once


class FullSizeWriter:
    """Makes output files of photographs at their full size. It has a reader's process of its own."""

    def __init__(self, config: MethodConfig) -> None:
        self._config = config
        self._reader = ImageReaderProcess()

    def write(self, items: Sequence[Item], edit: Edit | Unchanged) -> BinaryIO:
        """Read an image anew, edit it, and write it to a temporary file, which is returned open.

        Raises:
            RejectError: The image cannot be read, or the format cannot hold it.
        """
        for _ in range(_ATTEMPTS - 1):
            try:
                return read_image(items, lambda data: self._write(data, edit))
            except RejectError as error:
                if error.reason != Reason.DECODER_DIED:
                    raise
        return read_image(items, lambda data: self._write(data, edit))

    def _write(self, data: Data, edit: Edit | Unchanged) -> BinaryIO:
        config = self._config
        as_it_is = isinstance(edit, Unchanged) and config.output_space is None
        blocks = self._reader.metadata(data)
        channels = {"ink": config.format in FORMATS_WITH_INK, "grey": config.format in FORMATS_WITH_GREY}
        original, bands = self._reader.original(data, **channels, srgb=not as_it_is)
        image, edited = (original, bands) if as_it_is else self._edited(original, bands, edit)
        deep = config.format in DEEP_FORMATS and (config.depth == 16 if config.depth else original.deep_file)
        if image.deep and not deep:
            image, edited = replace(image, deep=False), map(to_eight_bits, edited)
        elif deep and not image.deep:
            image, edited = replace(image, deep=True), (band.astype(np.uint16) * 257 for band in edited)
        _check_fits(config.format, image)
        converted = not as_it_is or image.profile == OUTPUT_PROFILES["srgb"]
        space = space_of_edit(config) if converted else "input"
        blocks = of_edit(blocks, config, image.width, image.height, space, isinstance(edit, Unchanged))
        file = _temporary_file()
        try:
            write_image(file, image, edited, config.format, config.quality, blocks)
        except BaseException:
            file.close()
            raise
        return file

    def _edited(self, original: Original, bands: Bands, edit: Edit | Unchanged) -> tuple[Original, Bands]:
        space = self._config.output_space or "srgb"
        image = replace(original, profile=OUTPUT_PROFILES[space], deep=original.deep_file)

        def edited() -> Iterator[NDArray[Any]]:
            for band in bands:
                colours = band[..., :3].astype(np.float32) / np.float32(65535.0)
                if not isinstance(edit, Unchanged):
                    colours = np.clip(edit.apply(colours), 0.0, 1.0)
                samples = to_samples(from_srgb(colours, space), image)
                yield np.concatenate([samples, _alpha(band, image)], axis=2)

        return image, edited()


def _check_fits(format: str, image: Original) -> None:  # noqa: A002
    """Raise RejectError for an image that is too large for the format."""
    try:
        check_format(format, image.width, image.height)
    except UsageError as error:
        raise RejectError(Reason.UNSUPPORTED, f"{error}; use another --format.") from error


def _temporary_file() -> BinaryIO:
    """Return an open file without a directory entry, so that nothing stays of it; tifffile wants its name as text."""
    file = tempfile.NamedTemporaryFile(dir=temporary_directory(), delete=False)  # noqa: SIM115 - the caller reads it
    Path(file.name).unlink()
    return cast(BinaryIO, file)


def _alpha(band: NDArray[np.uint16], image: Original) -> NDArray[Any]:
    return band[..., 3:] if image.deep else to_eight_bits(band[..., 3:])
