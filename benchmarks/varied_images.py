"""Make many small images from few: seeded crops, mirror images and colours of those in a folder.

    python benchmarks/varied_images.py IMAGES EMPTY_DIR COUNT [--size 128] [--seed 0]

Image `n` is a variant of source `n` modulo the number of sources, in the order of their names' hashes. A crop has .6 to
1 of each side at a random place, half of them are mirrored, and each channel gets a gain of .8 to 1.2 and one gamma of
.8 to 1.25. They are JPEG files with the given long side; the same call writes the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

SUFFIXES = (".jpg", ".jpeg", ".png")


def sources(folder: Path) -> list[Path]:
    """Return the images below a folder, in the order of their names' hashes."""
    found = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES]
    if not found:
        raise SystemExit(f"{folder} holds no images")
    return sorted(found, key=lambda path: hashlib.sha256(path.name.encode()).hexdigest())


def variant(image: Image.Image, random: np.random.Generator, size: int) -> Image.Image:
    """Return a crop of an RGB image in other colours, mirrored or not, with `size` pixels on its long side."""
    sides = np.array(image.size)
    crop = np.rint(sides * random.uniform(0.6, 1.0, 2))
    left, top = np.floor((sides - crop) * random.uniform(0.0, 1.0, 2))
    image = image.crop((int(left), int(top), int(left + crop[0]), int(top + crop[1])))
    if random.random() < 0.5:
        image = ImageOps.mirror(image)
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    pixels = np.asarray(image, np.float32) / 255
    pixels = (pixels * random.uniform(0.8, 1.2, 3)).clip(0, 1) ** random.uniform(0.8, 1.25)
    return Image.fromarray(np.rint(pixels * 255).astype(np.uint8))


def write_varied(images: Path, folder: Path, count: int, size: int = 128, seed: int = 0) -> None:
    """Write `count` variants of the images below a folder as `<number>.jpg`."""
    paths = sources(images)
    folder.mkdir(parents=True)
    for first, path in enumerate(paths[:count]):
        with Image.open(path) as opened:
            opened.draft("RGB", (4 * size, 4 * size))  # a large JPEG is decoded smaller
            image = opened.convert("RGB")
        for number in range(first, count, len(paths)):
            random = np.random.default_rng([seed, number])
            variant(image, random, size).save(folder / f"{number:06d}.jpg", quality=92)


def main() -> None:
    """Write the images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("count", type=int)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write_varied(options.images, options.folder, options.count, options.size, options.seed)


if __name__ == "__main__":
    main()
