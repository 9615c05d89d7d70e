"""Draw the small images that `same_results.py` works on; the same ones each time.

    python benchmarks/draw_images.py EMPTY_DIR

`paintings/` and `photos/` hold a colour, a grey and a 16-bit PNG, a JPEG that EXIF rotates, images in a sub-folder and
one image under two names; `broken/` holds half a file.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def waves(seed: int, width: int = 136, height: int = 104) -> NDArray[np.uint8]:
    """Draw soft coloured waves with a little noise, `(height, width, 3)` uint8."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / 12.0
    channels = [np.sin(x * a + y * b + c) for a, b, c in random.uniform(0.3, 1.6, (3, 3))]
    pixels = 127 + 90 * np.stack(channels, axis=-1) + random.normal(0, 8, (height, width, 3))
    return pixels.clip(0, 255).astype(np.uint8)


def ramp(width: int = 128, height: int = 96) -> NDArray[np.uint8]:
    """Draw a plain left half and a soft horizontal ramp on the right, `(height, width, 3)` uint8."""
    row = np.maximum(np.arange(width) - width // 2, 0) + 90
    return np.broadcast_to(row[None, :, None], (height, width, 3)).astype(np.uint8)


def draw_images(folder: Path) -> None:
    """Draw `paintings/`, `photos/` and `broken/` below `folder`."""
    for name, seed in (("paintings", 1), ("photos", 11)):
        draw_collection(folder / name, seed)
    broken = folder / "broken/broken.png"
    broken.parent.mkdir()
    whole = (folder / "photos/a.png").read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])


def draw_collection(folder: Path, seed: int) -> None:
    """Draw one image of each kind, one of them under two names."""
    (folder / "folder").mkdir(parents=True)
    Image.fromarray(waves(seed)).save(folder / "a.png")
    Image.fromarray(waves(seed + 1)).convert("L").save(folder / "b-grey.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotated by 90 degrees
    Image.fromarray(waves(seed + 2)).save(folder / "c-rotated.jpg", quality=92, exif=exif)
    deep = waves(seed + 3)[..., 0].astype(np.uint16) * 257 + np.uint16(seed)
    Image.fromarray(deep).save(folder / "d-16-bit.png")
    Image.fromarray(waves(seed + 4, 91, 67)).save(folder / "folder/e.png")
    Image.fromarray(ramp()).save(folder / "folder/f-smooth.png")  # equal and nearly equal patches, which are merged
    shutil.copyfile(folder / "a.png", folder / "z-same-as-a.png")


if __name__ == "__main__":
    draw_images(Path(sys.argv[1]))
