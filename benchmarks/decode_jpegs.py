"""Compare how long two checkouts take to decode JPEGs of 12 megapixels, in interleaved runs.

    python benchmarks/decode_jpegs.py --base CHECKOUT --images DIR --out results/decode_jpegs.json

DIR holds photographs, at any depth. COUNT distinct JPEGs of 4000 x 3000 are made of them once, in a temporary folder:
parts of a photograph, enlarged, with noise as of a sensor, some mirrored, at several qualities, some with an sRGB
profile and EXIF. One run decodes all of them to working images, one after the other, with the checkout's own reader
and in a process of its own. The seconds are those of the loop, with reading the files; the reader's process has
decoded one image before. The checkouts take turns: base, new, new, base and so on. Each runs once beforehand over a
few files, untimed.

The result is the ratio new / base of the seconds of each pair, their median, and the 95 % interval of the median by the
bootstrap.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from paired_main_job import HERE, SUFFIXES, check_package, run_python
from PIL import Image, ImageChops, ImageCms

COUNT = 500
WIDTH, HEIGHT = 4000, 3000
NOISE = 4.0  # standard deviation, of 255
WORKING_SIZE = 512
WARM_UP = 5  # files of the untimed run
RESAMPLES = 10_000

RUN = """
import sys, time
from pathlib import Path
from kt_batch.process import tune_process
tune_process()
from kt_batch.store.images.reader_process import ImageReaderProcess
files = sorted(Path(sys.argv[1]).iterdir())[: int(sys.argv[2])]
with ImageReaderProcess() as reader:
    reader.decode(files[0].read_bytes(), int(sys.argv[3]))
    started = time.perf_counter()
    for file in files:
        reader.decode(file.read_bytes(), int(sys.argv[3]))
    print(time.perf_counter() - started)
"""


def make_jpegs(images: Path, folder: Path, count: int) -> int:
    """Make `count` distinct JPEGs of photographs below `images`; return their bytes."""
    sources = sorted(path for path in images.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not sources:
        raise SystemExit(f"{images} holds no images")
    numbers = random.Random(0)  # noqa: S311 - always the same files
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    values = np.random.default_rng(0).normal(128.0, NOISE, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    noise = Image.fromarray(values)
    exif = Image.Exif()
    exif[0x0110], exif[0x0112] = "Camera", 1
    for number in range(count):
        with Image.open(sources[number * len(sources) // count]) as source:
            picture = source.convert("RGB")
        part = numbers.uniform(0.7, 1.0)
        size = (int(picture.width * part), int(picture.height * part))
        left, top = (numbers.randint(0, whole - cut) for whole, cut in zip(picture.size, size, strict=True))
        picture = picture.crop((left, top, left + size[0], top + size[1])).resize((WIDTH, HEIGHT))
        if number % 2:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        shifted = ImageChops.offset(noise, numbers.randrange(WIDTH), numbers.randrange(HEIGHT))
        picture = ImageChops.add(picture, shifted, offset=-128)
        tags: dict[str, Any] = {"icc_profile": profile, "exif": exif.tobytes()} if number % 4 < 2 else {}
        quality, subsampling = (85, 90, 92, 95)[number % 4], (2, 2, 2, 0)[number % 4]
        picture.save(folder / f"{number:04d}.jpg", quality=quality, subsampling=subsampling, **tags)
    return sum(path.stat().st_size for path in folder.iterdir())


def seconds_of(checkout: Path, folder: Path, count: int) -> float:
    """Decode the first `count` files with the reader of a checkout; return the seconds."""
    return float(run_python(checkout, checkout, RUN, [str(folder), str(count), str(WORKING_SIZE)]))


def summarise(base: Sequence[float], new: Sequence[float]) -> dict[str, Any]:
    """Return the ratios of the pairs, their median, and its 95 % interval by the bootstrap."""
    ratios = [after / before for before, after in zip(base, new, strict=True)]
    numbers = random.Random(0)  # noqa: S311 - always the same interval
    medians = sorted(statistics.median(numbers.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    return {
        "ratios": [round(ratio, 4) for ratio in ratios],
        "median": round(statistics.median(ratios), 4),
        "interval_95": [round(medians[round(RESAMPLES * share)], 4) for share in (0.025, 0.975)],
    }


def measure(checkouts: dict[str, Path], folder: Path, count: int, pairs: int) -> dict[str, list[float]]:
    """Return the seconds of every run of each checkout, in the order of the pairs."""
    runs: dict[str, list[float]] = {name: [] for name in checkouts}
    for checkout in checkouts.values():
        check_package(checkout)
        seconds_of(checkout, folder, WARM_UP)
    for number in range(pairs):
        order = list(checkouts) if number % 2 == 0 else list(reversed(checkouts))
        for name in order:
            runs[name].append(round(seconds_of(checkouts[name], folder, count), 3))
        before, after = (runs[name][-1] for name in checkouts)
        print(f"pair {number + 1}: base {before:.2f} s, new {after:.2f} s, ratio {after / before:.4f}", flush=True)
    return runs


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--new", type=Path, default=HERE, help="default: this checkout")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    checkouts = {"base": options.base.resolve(), "new": options.new.resolve()}
    with tempfile.TemporaryDirectory(prefix="decode-jpegs-") as folder:
        size = make_jpegs(options.images.resolve(), Path(folder), options.count)
        print(f"{options.count} JPEGs, {size / 1e6:.0f} MB", flush=True)
        runs = measure(checkouts, Path(folder), options.count, options.pairs)
    result = summarise(runs["base"], runs["new"])
    print(f"new / base: median {result['median']}, 95 % bootstrap interval {result['interval_95']}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figures = {"images": options.count, "megabytes": round(size / 1e6), **result, "seconds": runs}
    options.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
