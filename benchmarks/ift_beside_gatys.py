"""Compare IFT and WCT with Gatys' optimisation by the loss that Gatys minimises, at equal time and at equal loss.

    python benchmarks/ift_beside_gatys.py --photos IMAGES --styles IMAGES --sizes 256 512 768 1024 \
        --evaluations 2 4 8 16 --out results/ift_beside_gatys.json

The sizes are those of the supplement's Table 1. All methods have the settings of new jobs but for the evaluations of
gatys. The loss is that of `gatys`, content and styles at the shipped encoder's layers (eq. 29 of the supplement of
Iterative Feature Transformation with one style), of the picture rounded to 8 bits. Told is also when gatys has the loss
of ift, by interpolation between its evaluations in the logarithm of the loss. Seconds are those of the processor, of
one thread, with the style's features known.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from kt_batch.config import EncoderConfig
from kt_batch.methods.base import Method, Resources
from kt_batch.methods.features import to_tensor
from kt_batch.methods.gatys import Gatys, GatysConfig
from kt_batch.methods.ift import Ift, IftConfig
from kt_batch.methods.styles import Parts
from kt_batch.methods.wct import LAYERS, Wct, WctConfig
from kt_batch.models.weights import EncoderSource, LoadedEncoder, load_encoder
from kt_batch.pipelines.translate.library_images import load_decoders
from kt_batch.store.images.files import decode, pad_to

STYLE = "0" * 16


def read(path: Path, size: int) -> Tensor:
    """Return an image `(3, H, W)` whose sides are multiples of the encoder's stride."""
    return to_tensor(pad_to(decode(path.read_bytes(), size).pixels, 8)).contiguous()


def methods(resources: Resources, size: int, evaluations: Sequence[int]) -> dict[str, Method]:
    """Return the methods by name; those of gatys name their evaluations of the loss."""
    encoder = EncoderConfig(weights_sha256="", layer="relu4_1", size=size)
    fixed: dict[str, Method] = {
        "wct": Wct(WctConfig(encoder=encoder, styles=(STYLE,)), resources),
        "wct, alpha 1": Wct(WctConfig(encoder=encoder, styles=(STYLE,), alpha=1), resources),
        "ift": Ift(IftConfig(encoder=encoder, styles=(STYLE,), details=0.5), resources),
        "ift, details 0": Ift(IftConfig(encoder=encoder, styles=(STYLE,), details=0), resources),
    }
    return fixed | {
        f"gatys {number}": Gatys(GatysConfig(encoder=encoder, styles=(STYLE,), iterations=number), resources)
        for number in evaluations
    }


def measured(photo: Tensor, made: dict[str, Method]) -> dict[str, dict[str, float]]:
    """Return seconds and loss of each method for one photograph, and those of the photograph itself."""
    gatys = cast("Gatys", next(method for name, method in made.items() if name.startswith("gatys")))
    loss = gatys._loss(photo, 1.0, Parts((0,), (1.0,)))  # noqa: SLF001 - its loss is the measure
    rows = {}
    for name, method in {"photograph": None, **made}.items():
        began = time.process_time()
        output = photo if method is None else cast("Tensor", method.translate(photo).output)
        seconds = time.process_time() - began
        with torch.no_grad():
            value = float(loss((output * 255).round() / 255))
        rows[name] = {"seconds": round(seconds, 2), "loss": round(value, 4)}
    return rows


def seconds_of_equal_loss(table: Mapping[str, Mapping[str, float]]) -> float | None:
    """Return the seconds after which gatys has the loss of ift; None where it has not within its evaluations."""
    wanted = math.log(table["ift"]["loss"])
    rows = [row for name, row in table.items() if name.startswith("gatys")]
    for before, after in pairwise(rows):
        first, second = math.log(before["loss"]), math.log(after["loss"])
        if first > wanted >= second:
            share = (first - wanted) / (first - second)
            return round(before["seconds"] + share * (after["seconds"] - before["seconds"]), 2)
    return None


def at_size(loaded: LoadedEncoder, options: argparse.Namespace, size: int) -> dict[str, Any]:
    """Measure all pairs at one size; return the medians of all, and every pair."""
    decoders = {layer: each.network for layer, each in load_decoders(loaded, "kt-vgg", LAYERS).items()}
    pairs: dict[str, Any] = {}
    for style in options.styles:
        resources = Resources(encoder=loaded.network, decoders=decoders, styles={STYLE: read(style, size)})
        made = methods(resources, size, options.evaluations)
        for path in options.photos:
            pairs[f"{path.stem} after {style.stem}"] = rows = measured(read(path, size), made)
            print(size, path.stem, style.stem, json.dumps(rows), flush=True)
    table = {
        name: {key: statistics.median(pair[name][key] for pair in pairs.values()) for key in ("seconds", "loss")}
        for name in next(iter(pairs.values()))
    }
    return {"median": table, "gatys_seconds_of_ift_loss": seconds_of_equal_loss(table), "pairs": pairs}


def main() -> None:
    """Measure all sizes, and save after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, nargs="+", required=True)
    parser.add_argument("--styles", type=Path, nargs="+", required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256])
    parser.add_argument("--evaluations", type=int, nargs="+", default=[2, 4, 8, 16, 32, 64])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    loaded, sizes = load_encoder(EncoderSource()), {}
    for size in options.sizes:
        sizes[str(size)] = found = at_size(loaded, options, size)
        print(json.dumps({"size": size, **found["median"]}, indent=1))
        options.out.write_text(json.dumps({"sizes": sizes}, indent=1) + "\n")


if __name__ == "__main__":
    main()
