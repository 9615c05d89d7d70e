"""The same work on several devices, each in a folder of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kt_batch.config import RunOptions
from kt_batch.pipelines.translate.finish import TranslateSummary
from kt_batch.pipelines.translate.sources import Choice
from tests.support.collection import Collection
from tests.support.tiny import draw_all, extracted, indexed, translate_request, translated, translated_after

Devices = Mapping[str, int]  # folder -> GPUs of a worker
HERE_AND_THERE: Devices = {"here": 0, "there": 1}


def translated_on(
    devices: Devices, choice: Choice, photos: Path, folder: Path, method: str = "knowledge", **settings: Any
) -> list[TranslateSummary]:
    """Translate photographs after what `choice` names, on each device."""
    return [
        translated_after(choice, photos, folder / place, method, RunOptions(threads=1, gpus=gpus), **settings)
        for place, gpus in devices.items()
    ]


def collection_on(devices: Devices, collection: Collection, folder: Path, **config: Any) -> list[TranslateSummary]:
    """Translate the photographs of a collection by its index, on each device. config: See `translate_request`."""
    found = []
    for place, gpus in devices.items():
        request = translate_request(collection.library, folder / place, collection.index, **config)
        request = replace(request, options=RunOptions(threads=1, gpus=gpus))
        found.append(translated([collection.photos], request))
    return found


def two_libraries(folder: Path) -> list[Path]:
    """Make two indexed libraries, of two pictures and of one."""
    libraries = [folder / "left", folder / "right"]
    for library, seeds in zip(libraries, ([1, 2], [3]), strict=True):
        extracted([draw_all(folder / f"{library.name}-pictures", seeds)], library)
        indexed(library)
    return libraries
