"""Rehearse MIT-Adobe FiveK with pairs made here: extract them on Ray, fit them, edit photographs after them.

    python benchmarks/fivek_rehearsal.py --images DIR --folder NEW --out results/fivek_rehearsal.json

Photographs at hand, mirror images and crops of them are taken at an exposure drawn at random and edited by a scripted
photographer. Those that are edited by what was learned come from other files than the pairs. All are JPEG files of
384 pixels. The commands are the real ones; Ray runs two workers of one thread. Reported are the rates, the seconds and
the bytes of each step, and mean PSNR of the 500 photographs, unedited and edited, against the photographer.
"""

from __future__ import annotations

from kt_batch.process import tune_process

tune_process()  # before torch is imported

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from synthetic_photographers import HANDS, edit, taken

from kt_batch.evaluation.likeness import psnr

PAIRS, APPLIED, SIZE = 2000, 500, 384
HAND = HANDS["film"]
SUFFIXES = (".jpg", ".jpeg", ".png")
RAY = ("--runner", "ray", "--workers", 2, "--threads", 1)
BOX = (0.1, 0.05, 0.95, 0.9)  # left, top, right, bottom of a crop, as shares of the sides


def variant(path: Path, number: int) -> np.ndarray:
    """Return a photograph (0), the mirror image of a crop (1) or a crop turned by 180 degrees (2), as `(H, W, 3)`."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    if number:
        image = image.crop(tuple(round(share * side) for share, side in zip(BOX, image.size * 2, strict=True)))
        image = ImageOps.mirror(image) if number == 1 else image.rotate(180)
    image.thumbnail((SIZE, SIZE), Image.Resampling.LANCZOS)
    return np.asarray(image, np.float32) / 255


def write(folder: Path, paths: list[Path], count: int, random: np.random.Generator) -> None:
    """Write `count` photographs as before/<number>.jpg and after/<number>.jpg."""
    for side in ("before", "after"):
        (folder / side).mkdir(parents=True)
    for number in range(count):
        before = taken(variant(paths[number % len(paths)], number // len(paths)), random)
        for side, picture in (("before", before), ("after", edit(before, HAND))):
            Image.fromarray(np.rint(picture * 255).astype(np.uint8)).save(folder / side / f"{number}.jpg", quality=95)


def command(*words: object) -> tuple[dict[str, Any], float]:
    """Run a command of kt-batch and return its summary, and its seconds with start and end."""
    started = time.perf_counter()
    line = [sys.executable, "-m", "kt_batch", *map(str, words), "--json"]
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 3):
        raise SystemExit(f"{' '.join(line)} ended with {done.returncode}")
    return json.loads(done.stdout), round(time.perf_counter() - started, 1)


def nearness(folder: Path, run: Path) -> dict[str, float]:
    """Return mean PSNR against the photographer, of no edit and of the edits of a run."""
    scores = []
    for after in sorted((folder / "after").iterdir()):
        files = (folder / "before" / after.name, run / "images" / f"{after.name}.png", after)
        if files[1].exists():
            before, made, wanted = (np.asarray(Image.open(file), np.float32) / 255 for file in files)
            scores.append((psnr(before, wanted), psnr(made, wanted)))
    none, edited = np.mean(scores, axis=0)
    return {"none_db": round(float(none), 2), "edit_db": round(float(edited), 2)}


def rehearse(images: Path, folder: Path) -> dict[str, Any]:
    """Make the pairs, run the commands, and return the figures."""
    found = [path for path in images.rglob("*") if path.suffix.lower() in SUFFIXES]
    found.sort(key=lambda path: hashlib.sha256(path.name.encode()).hexdigest())
    random, learnt = np.random.default_rng(0), len(found) * 4 // 5
    write(folder / "pairs", found[:learnt], PAIRS, random)
    write(folder / "photographs", found[learnt:], APPLIED, random)
    library, run = folder / "library", folder / "run"
    sides = ("--before", folder / "pairs/before", "--after", folder / "pairs/after")
    extracted, extract_seconds = command("extract", *sides, "--library", library, "--size", SIZE, *RAY)
    fitted, fit_seconds = command("fit", library, "--threads", 1)
    photographs = folder / "photographs/before"
    edited, edit_seconds = command(
        "translate", photographs, "--method", "retouch", "--library", library, "--out", run, *RAY
    )
    table = sum(path.stat().st_size for path in (library / "pairs").rglob("*.parquet"))
    kept = {key: extracted[key] for key in ("pairs", "rejected", "seconds", "images_per_second")}
    return {
        "cores": os.cpu_count(),
        "load": [round(value, 1) for value in os.getloadavg()],
        "extract": {**kept, "with_start_seconds": extract_seconds, "bytes_per_pair": round(table / kept["pairs"])},
        "fit": {"seconds": fitted["seconds"], "with_start_seconds": fit_seconds, "bytes": fitted["bytes"]},
        "translate": {
            **{key: edited[key] for key in ("images", "rejected", "seconds", "images_per_second")},
            "with_start_seconds": edit_seconds,
        },
        "nearness": nearness(folder / "photographs", run),
    }


def main() -> None:
    """Rehearse and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("images", "folder", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args()
    figures = rehearse(options.images, options.folder)
    options.out.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
