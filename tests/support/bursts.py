"""Photographs of bursts: JPEG files with real EXIF, and runs that edit them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from kt_batch.config import RunOptions
from kt_batch.pipelines.progress import Progress, no_progress
from kt_batch.pipelines.translate.finish import TranslateSummary, translate
from kt_batch.pipelines.translate.plan import TranslateRequest
from kt_batch.pipelines.translate.sources import Choice, choose
from kt_batch.runners.base import Runner
from kt_batch.runners.local import LocalRunner
from tests.support.tiny import draw


def shoot(
    path: Path,
    scene: int,
    taken: str | None,
    *,
    stops: float = 0.0,
    crop: int = 0,
    grey: bool = False,
    form: str = "JPEG",
) -> Path:
    """Write a photograph of a scene.

    taken: `2026:06:01 10:00:00.25+02:00`; fraction and offset may be absent. stops: By which it is brighter. crop:
    Pixels that are missing at each side. The time of the file says nothing.
    """
    drawn = draw(path.with_suffix(".drawn"), scene, 120, 90)
    values = np.asarray(Image.open(drawn), np.float64)
    drawn.unlink()
    values = (values * 2 ** (stops / 2.2)).clip(0, 255)[crop : 90 - crop, crop : 120 - crop]
    if grey:
        values = np.repeat(values.mean(2, keepdims=True), 3, axis=2)
    Image.fromarray(values.astype(np.uint8)).save(path, form, quality=95, exif=_exif(taken) if taken else b"")
    os.utime(path, (2**30 + scene, 2**30 + scene))
    return path


def _exif(taken: str) -> bytes:
    date, rest = taken[:19], taken[19:]
    fraction, sign, offset = rest.partition("+")
    exif = Image.Exif()
    directory = exif.get_ifd(ExifTags.IFD.Exif)
    directory[ExifTags.Base.DateTimeOriginal] = date
    if fraction:
        directory[ExifTags.Base.SubsecTimeOriginal] = fraction.removeprefix(".")
    if sign:
        directory[ExifTags.Base.OffsetTimeOriginal] = sign + offset
    return exif.tobytes()


def edited(
    images: Sequence[Path | str],
    library: Path | str,
    run: Path | str,
    series: str = "time",
    *,
    runner: Runner | None = None,
    unit_size: int = 2,
    options: RunOptions | None = None,
    progress: Progress = no_progress,
    **settings: object,
) -> TranslateSummary:
    """Edit photographs with one thread in this process; `settings` are those of `retouch` and of all methods."""
    config, sources = choose("retouch", {"series": series, **settings}, Choice(library=str(library)))
    how = options or RunOptions(threads=1, unit_size=unit_size)
    request = TranslateRequest([str(image) for image in images], str(run), config, sources, how)
    return translate(request, runner or LocalRunner(), progress)
