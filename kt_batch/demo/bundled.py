"""Photographs that come with scikit-image, and files of the demo's inputs."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from kt_batch.errors import StorageError, UsageError
from kt_batch.store.targets import write_file


def save_images(folder: Path, images: Mapping[str, Image.Image]) -> None:
    """Write images as `<name>.png`; existing files stay. Raises StorageError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"The folder '{folder}' cannot be made: {error.strerror}.") from error
    for name, image in images.items():
        target = folder / f"{name}.png"
        if not target.exists():
            file = io.BytesIO()
            image.save(file, "PNG")
            write_file(target, file.getvalue())


def bundled(names: tuple[str, ...]) -> dict[str, Image.Image]:
    """Return images bundled with scikit-image, by the stem of their file name. Raises UsageError without it."""
    try:
        from skimage import data
    except ImportError as error:
        raise UsageError("The demo's photographs come with scikit-image: pip install 'kt-batch[demo]'.") from error
    folder = Path(data.__file__).parent
    return {Path(name).stem: Image.open(folder / name).convert("RGB") for name in names}
