"""Apply an edit to photographs at their full size and depth, band by band."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from kt_batch.config import MethodConfig
from kt_batch.errors import Reason, RejectError, UsageError
from kt_batch.methods.base import Edit, Unchanged
from kt_batch.pipelines.inputs import read_image
from kt_batch.pipelines.translate.metadata import of_edit, space_of_profile
from kt_batch.store.images.file_bytes import Data
from kt_batch.store.images.originals import Bands, Original
from kt_batch.store.images.own_space import OwnSpace
from kt_batch.store.images.reader_process import ImageReaderProcess
from kt_batch.store.images.rgb_spaces import RgbSpaces
from kt_batch.store.images.writers import (
    DEEP_FORMATS,
    FORMATS_WITH_GREY,
    FORMATS_WITH_INK,
    blocks_of_rows,
    check_format,
    in_depth,
    to_samples,
    write_image,
)
from kt_batch.store.plans import Item
from kt_batch.store.scratch import temporary_directory

_BLOCK_PIXELS = 2**18  # edited at a time: their floats stay in the cache of a core
_ATTEMPTS = 2  # a reader's process may be ended from outside once


class FullSizeWriter:
    """Makes output files of photographs at their full size. It has a reader's process of its own."""

    def __init__(self, config: MethodConfig, spaces: RgbSpaces, library: str = "") -> None:
        """Take the configuration; `library` names the library by its content, where there is one."""
        self._config, self._library = config, library
        self._reader = ImageReaderProcess()
        self._spaces = spaces

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
        as_it_is = isinstance(edit, Unchanged) and config.output_space in (None, "input")
        blocks = self._reader.metadata(data)
        ink, grey = as_it_is and config.format in FORMATS_WITH_INK, as_it_is and config.format in FORMATS_WITH_GREY
        original, bands = self._reader.original(data, ink=ink, grey=grey)
        deep = config.format in DEEP_FORMATS and (config.depth == 16 if config.depth else original.deep_file)
        image = replace(original, deep=deep)
        if as_it_is:
            rows: Bands = (in_depth(band, deep) for band in bands)
        else:
            image, rows = self._edited(image, bands, edit)
        _check_fits(config.format, image)
        space = space_of_profile(config, image.profile)
        blocks = of_edit(blocks, config, image.width, image.height, space, isinstance(edit, Unchanged), self._library)
        file = _temporary_file()
        try:
            write_image(file, image, rows, config.format, config.quality, blocks)
        except BaseException:
            file.close()
            raise
        return file

    def _edited(self, image: Original, bands: Bands, edit: Edit | Unchanged) -> tuple[Original, Bands]:
        own = OwnSpace(image.profile, image.is_srgb)
        before, after = self._spaces.own(own), self._spaces.for_output(self._config.output_space or "input", own)
        image = replace(image, profile=after.profile)

        def edited() -> Bands:
            top = 0
            for band in blocks_of_rows(bands, max(1, _BLOCK_PIXELS // image.width)):
                colours = before.to_srgb(band[..., :3])
                if not isinstance(edit, Unchanged):
                    colours = edit.apply(colours, top, image.height)
                samples = to_samples(after.from_srgb(colours), image)
                alpha = in_depth(band[..., 3:], image.deep)
                yield np.concatenate([samples, alpha], axis=2) if image.alpha else samples
                top += len(band)

        return image, edited()


def _check_fits(format: str, image: Original) -> None:  # noqa: A002
    """Raise RejectError for an image that is too large for the format."""
    try:
        check_format(format, image.width, image.height)
    except UsageError as error:
        raise RejectError(Reason.UNSUPPORTED, f"{error}; use another --format.") from error


def _temporary_file() -> BinaryIO:
    """Return an open file without a directory entry, so that nothing stays of it.

    tifffile wants its name as text, and stores want a file of the standard library itself.
    """
    descriptor, name = tempfile.mkstemp(dir=temporary_directory())
    os.close(descriptor)
    file = Path(name).open("w+b")  # noqa: SIM115 - the caller reads it
    Path(name).unlink()
    return file
