"""Compare ways to share one edit among the photographs of a burst, and say how alike photographs of a burst are.

    python benchmarks/bursts.py --photos DIR --out results/bursts.json

A burst is six frames of one photograph: each is cropped a little elsewhere and taken at a slightly other exposure and
white balance, as by a camera on automatic. The hands and what they teach are those of `synthetic_photographers.py`.
Flicker is the deviation, over the frames, of what the edits make of the same colours, in steps of 255. Accuracy is mean
PSNR to two photographers: one who edits each frame anew, and one who copies the settings of the middle frame.
"""

from __future__ import annotations

from kt_batch.process import tune_process

tune_process()  # before torch is imported

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from synthetic_photographers import HANDS, Hand, edit, photographs, rounded, table_of, taken, to_linear, to_srgb

from kt_batch.evaluation.likeness import psnr
from kt_batch.kernels.descriptors import describe
from kt_batch.kernels.likeness import ALIKE, distance
from kt_batch.kernels.quadratic import apply_map
from kt_batch.methods.retouch.config import FitConfig
from kt_batch.methods.retouch.fit import Fit, fit_pairs
from kt_batch.methods.retouch.predict import Prediction, predict

PAIRS = 100
FRAMES = 6
CROP = 0.06  # of a side, at most
WHITE_BALANCE = 0.02  # of red and of blue, at most
JITTERS = (0.1, 0.3)  # deviation of the exposure, in stops
COLOURS = 2048
BRACKETS = (-2.0, -1.0, 1.0, 2.0)  # in stops


def frame(picture: np.ndarray, jitter: float, random: np.random.Generator) -> np.ndarray:
    """Return one frame of a burst of a picture."""
    height, width = picture.shape[:2]
    top, bottom, left, right = (int(side * random.uniform(0, CROP)) for side in (height, height, width, width))
    cropped = picture[top : height - bottom, left : width - right]
    gains = 2 ** random.normal(0, jitter) * (1 + random.uniform(-WHITE_BALANCE, WHITE_BALANCE, 3) * [1, 0, 1])
    return rounded(to_srgb(to_linear(cropped) * gains))


def sample(picture: np.ndarray, count: int) -> np.ndarray:
    """Return an even sample of the colours of a picture."""
    colours = picture.reshape(-1, 3)
    return colours[:: max(1, len(colours) // count)]


def edits(fit: Fit, frames: list[np.ndarray]) -> dict[str, list[np.ndarray]]:
    """Return the maps of the frames, by each way to make them."""
    descriptors = np.array([describe(each) for each in frames])
    pooled = np.concatenate([sample(each, COLOURS // len(frames)) for each in frames])
    own: list[Prediction] = [
        predict(fit, described, sample(each, COLOURS)) for described, each in zip(descriptors, frames, strict=True)
    ]
    apart = [sum(distance(one, other) for other in descriptors) for one in descriptors]
    medoid = int(np.argmin(apart))
    count = len(frames)
    return {
        "each its own": [each.coefficients for each in own],
        "mean descriptors": [predict(fit, descriptors.mean(0), pooled).coefficients] * count,
        "median descriptors": [predict(fit, np.median(descriptors, 0), pooled).coefficients] * count,
        "medoid": [predict(fit, descriptors[medoid], pooled).coefficients] * count,
        "first frame": [predict(fit, descriptors[0], pooled).coefficients] * count,
        "mean of the maps": [np.mean([each.coefficients for each in own], axis=0)] * count,
    }


def measure(hand: Hand, pictures: list[np.ndarray], jitter: float, seed: int) -> dict[str, dict[str, float]]:
    """Return flicker and accuracy of each way."""
    random = np.random.default_rng(seed)
    learnt = [taken(picture, random) for picture in pictures[:PAIRS]]
    fit = fit_pairs(table_of([(picture, edit(picture, hand)) for picture in learnt]), FitConfig())
    found: dict[str, list[tuple[float, float, float]]] = {}
    for picture in pictures[PAIRS:]:
        base = taken(picture, random)
        frames = [frame(base, jitter, random) for _ in range(FRAMES)]
        anew = [edit(each, hand) for each in frames]
        copied = [edit(each, hand, frames[FRAMES // 2]) for each in frames]
        colours = sample(base, COLOURS)
        for way, maps in edits(fit, frames).items():
            mapped = np.array([apply_map(colours, each) for each in maps])
            made = [apply_map(each, own) for each, own in zip(frames, maps, strict=True)]
            found.setdefault(way, []).append(
                (
                    255 * float(mapped.std(0).mean()),
                    float(np.mean([psnr(*both) for both in zip(made, anew, strict=True)])),
                    float(np.mean([psnr(*both) for both in zip(made, copied, strict=True)])),
                )
            )
    names = ("flicker", "psnr_edited_anew", "psnr_settings_copied")
    return {way: dict(zip(names, np.mean(rows, axis=0).tolist(), strict=True)) for way, rows in found.items()}


def likeness(pictures: list[np.ndarray], seed: int) -> dict[str, dict[str, float]]:
    """Return quantiles of the distances between photographs of several kinds, and the share that counts as alike."""
    random = np.random.default_rng(seed)
    found: dict[str, list[float]] = {}
    base = [taken(picture, random) for picture in pictures]
    described = [describe(picture) for picture in base]
    for number, (picture, own) in enumerate(zip(base, described, strict=True)):
        for jitter in JITTERS:
            frames = [describe(frame(picture, jitter, random)) for _ in range(2)]
            found.setdefault(f"frames of a burst, {jitter} stops", []).append(distance(*frames))
        grey = np.repeat(picture.mean(2, keepdims=True), 3, axis=2)
        found.setdefault("black and white", []).append(distance(own, describe(grey)))
        for stops in BRACKETS:
            other = rounded(to_srgb(to_linear(picture) * 2**stops))
            found.setdefault(f"{stops:+g} stops", []).append(distance(own, describe(other)))
        found.setdefault("another picture", []).append(distance(own, described[number - 1]))
    return {
        kind: {
            **{f"percentile_{q}": float(np.percentile(values, q)) for q in (5, 50, 95)},
            "alike": float((np.array(values) <= ALIKE).mean()),
        }
        for kind, values in found.items()
    }


def main() -> None:
    """Measure all hands, print and save the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pictures = photographs(options.photos, 2 * PAIRS)
    alike = likeness(pictures, 0)
    for kind, values in alike.items():
        print(kind, {key: round(value, 3) for key, value in values.items()}, flush=True)
    table = {}
    for seed, (name, hand) in enumerate(HANDS.items()):
        for jitter in JITTERS:
            rows = measure(hand, pictures, jitter, seed)
            table[f"{name}, {jitter} stops"] = rows
            for way, row in rows.items():
                print(name, jitter, way, {key: round(value, 2) for key, value in row.items()}, flush=True)
    content = {"distances": alike, "ways": table}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
