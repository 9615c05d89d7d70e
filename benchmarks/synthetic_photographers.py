"""Learn the hands of three scripted photographers, and edit photographs that they edited too.

    python benchmarks/synthetic_photographers.py --photos DIR --out results/synthetic_photographers.json

Every photograph is first taken with an exposure drawn at random. A photographer then brings its median to a brightness
of their own, most of the way, and applies a tone curve, a saturation, and tints of shadows and highlights. The method
sees pictures alone. The first 100 photographs by the hash of their names are learnt from, the next 100 are edited.
Reported are mean PSNR of no edit, the ridge quadratic, and `retouch` with and without its gate, for each doubling of
pairs.
"""

from __future__ import annotations

from kt_batch.process import tune_process

tune_process()  # before torch is imported

import argparse
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from kt_batch.evaluation.likeness import psnr
from kt_batch.kernels.clipping import newly_clipped
from kt_batch.kernels.descriptors import LUMA, describe
from kt_batch.kernels.quadratic import IDENTITY, apply_map, moments
from kt_batch.methods.retouch.config import FitConfig
from kt_batch.methods.retouch.fit import PairTable, fit_pairs
from kt_batch.methods.retouch.predict import predict

SIZE = 256  # long side, in pixels
PAIRS = (6, 12, 25, 50, 100)
EXPOSURES = (-1.5, 1.0)  # in stops
CORRECTED = 0.8  # share of the way, in stops, to the wanted brightness


@dataclass(frozen=True)
class Hand:
    """A photographer.

    key: the wanted median of luminance, as an sRGB value.
    contrast: slope of the tone curve at its middle.
    black: what black becomes.
    saturation: factor of the distance from grey.
    shadows, highlights: added to red, green and blue there.
    """

    key: float
    contrast: float
    black: float
    saturation: float
    shadows: tuple[float, float, float]
    highlights: tuple[float, float, float]


HANDS = {
    "airy": Hand(0.55, 0.95, 0.03, 0.9, (0.0, 0.0, 0.01), (0.03, 0.015, -0.02)),
    "contrasty": Hand(0.42, 1.35, 0.0, 1.15, (-0.02, 0.0, 0.03), (0.02, 0.01, -0.01)),
    "film": Hand(0.48, 1.1, 0.06, 0.8, (0.0, 0.02, 0.01), (0.02, 0.02, -0.03)),
}


def to_linear(values: np.ndarray) -> np.ndarray:
    """Return linear light of sRGB values."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def to_srgb(values: np.ndarray) -> np.ndarray:
    """Return sRGB values in [0, 1] of linear light."""
    light = np.clip(values, 0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def rounded(values: np.ndarray) -> np.ndarray:
    """Return values as a picture of 8 bits holds them."""
    return (np.rint(np.clip(values, 0, 1) * 255) / 255).astype(np.float32)


def edit(picture: np.ndarray, hand: Hand, after: np.ndarray | None = None) -> np.ndarray:
    """Edit a picture `(H, W, 3)` as a photographer does; `after`: with the settings of another picture."""
    median = max(float(np.median((picture if after is None else after) @ LUMA)), 0.02)
    gain = (float(to_linear(np.array(hand.key))) / float(to_linear(np.array(median)))) ** CORRECTED
    values = to_srgb(to_linear(picture.astype(np.float64)) * np.clip(gain, 0.25, 6))
    curved = 0.5 + np.tanh(hand.contrast * (2 * values - 1)) / (2 * np.tanh(hand.contrast))
    curved = hand.black + (1 - hand.black) * curved
    grey = (curved @ LUMA)[..., None]
    tint = (1 - grey) ** 2 * np.array(hand.shadows) + grey**2 * np.array(hand.highlights)
    return rounded(grey + hand.saturation * (curved - grey) + tint)


def photographs(folder: Path, count: int) -> list[np.ndarray]:
    """Return `count` photographs, in the order of the hashes of their names."""
    paths = sorted(folder.glob("*.jpg"), key=lambda path: hashlib.sha256(path.name.encode()).hexdigest())[:count]
    pictures = []
    for path in paths:
        with Image.open(path) as opened:
            small = opened.convert("RGB")
            small.thumbnail((SIZE, SIZE), Image.Resampling.LANCZOS)
            pictures.append(np.asarray(small, np.float32) / 255)
    return pictures


def taken(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return a photograph at an exposure drawn at random."""
    return rounded(to_srgb(to_linear(picture) * 2 ** random.uniform(*EXPOSURES)))


def table_of(pairs: list[tuple[np.ndarray, np.ndarray]]) -> PairTable:
    """Return the table of pairs, in their order."""
    measured = [moments(before, after) for before, after in pairs]
    return PairTable(
        tuple(f"{number:016x}" for number in range(len(pairs))),
        np.array([describe(before) for before, _ in pairs]),
        np.array([each.gram for each in measured]),
        np.array([each.cross for each in measured]),
        np.array([each.power for each in measured]),
        np.array([newly_clipped(before, after) for before, after in pairs]),
    )


def measure(hand: Hand, pictures: list[np.ndarray], seed: int) -> list[dict[str, float]]:
    """Return a row for each number of pairs."""
    random = np.random.default_rng(seed)
    before = [taken(picture, random) for picture in pictures]
    pairs = [(picture, edit(picture, hand)) for picture in before]
    learnt, tested = pairs[: PAIRS[-1]], pairs[PAIRS[-1] :]
    table = table_of(learnt)
    descriptors = [describe(picture) for picture, _ in tested]
    rows = []
    for count in PAIRS:
        fit = fit_pairs(table.take(range(count)), FitConfig())
        scores = []
        for (picture, wanted), described in zip(tested, descriptors, strict=True):
            own = predict(fit, described, picture.reshape(-1, 3)[::16])
            ungated = IDENTITY + (own.coefficients - IDENTITY) / own.confidence
            maps = (IDENTITY, fit.common_map, own.coefficients, ungated)
            scores.append([*(psnr(apply_map(picture, each), wanted) for each in maps), own.confidence])
        none, ridge, gated, free, confidence = np.array(scores).T
        rows.append(
            {
                "pairs": count,
                "none": none.mean(),
                "ridge": ridge.mean(),
                "retouch": gated.mean(),
                "gain": (gated - ridge).mean(),
                "without_gate": free.mean(),
                "gate_cost": (free - gated).mean(),
                "confident": (confidence > 0.99).mean(),
                "much_worse_than_none": float((gated < none - 1).sum()),
            }
        )
    return rows


def main() -> None:
    """Measure all hands, print and save the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pictures = photographs(options.photos, 2 * PAIRS[-1])
    table = {}
    for seed, (name, hand) in enumerate(HANDS.items()):
        rows = measure(hand, pictures, seed)
        table[name] = {"hand": asdict(hand), "rows": rows}
        for row in rows:
            print(name, {key: round(float(value), 2) for key, value in row.items()}, flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
