"""Does kt-vgg choose the patches that VGG-19 would choose?

    python benchmarks/fidelity.py --paintings DIR --photos DIR --vgg19 FILE --out results/fidelity.json

Photographs (held out of training) ask, paintings answer. Each encoder chooses the nearest painting patch for the
same positions; both choices are judged by VGG-19's NCC. Also: R2 of the linear fit from kt-vgg's cells to VGG-19's,
fitted on the paintings and measured on the photographs.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

import kt_batch  # noqa: F401 - before torch, so that its threads wait asleep
from kt_batch.kernels.patches import positions, unfold
from kt_batch.kernels.tiles import unit
from kt_batch.methods.knowledge import encode, to_tensor
from kt_batch.models.encoder import Encoder
from kt_batch.models.weights import EncoderSource, load_encoder
from kt_batch.pipelines.train import HELD_OUT
from kt_batch.store.images import decode, image_id, pad_to

LAYER = "relu3_1"
SIZE = 384
QUERIES_PER_PHOTO = 500


@torch.no_grad()
def features_of(encoder: Encoder, files: list[Path]) -> list[Tensor]:
    """The feature map of each file."""
    working = [decode(file.read_bytes(), SIZE) for file in files]
    return [encode(encoder, to_tensor(pad_to(image.pixels, 4)), LAYER) for image in working]


def unit_patches(features: list[Tensor]) -> Tensor:
    """All patches of all maps, unit length."""
    return unit(torch.cat([unfold(f, *positions(f.shape[1], f.shape[2], 1, False)).flatten(1) for f in features]))


def nearest(queries: Tensor, library: Tensor) -> Tensor:
    """The library row with the largest NCC for each query."""
    return torch.cat([(part @ library.T).argmax(1) for part in queries.split(512)])


def linear_fit_r2(
    ours: list[Tensor], theirs: list[Tensor], ours_test: list[Tensor], theirs_test: list[Tensor]
) -> float:
    """R2, all channels together, of the least-squares map with a constant term."""

    def cells(maps: list[Tensor]) -> Tensor:
        return torch.cat([m.flatten(1).T for m in maps]).double()

    def with_one(x: Tensor) -> Tensor:
        return torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)

    x, y = with_one(cells(ours)), cells(theirs)
    weights = torch.linalg.solve(x.T @ x + 1e-6 * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)
    target = cells(theirs_test)
    error = (with_one(cells(ours_test)) @ weights - target).square().sum()
    return float(1 - error / (target - target.mean(0)).square().sum())


def main() -> None:
    """Print and save the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--paintings", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--vgg19", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(2)
    paintings = sorted(options.paintings.iterdir())[:8]
    photos = [f for f in sorted(options.photos.iterdir()) if image_id(f.read_bytes()).startswith(HELD_OUT)][:12]
    student = load_encoder(EncoderSource()).network
    teacher = load_encoder(EncoderSource("vgg19", str(options.vgg19))).network
    maps = {name: (features_of(e, paintings), features_of(e, photos)) for name, e in (("s", student), ("t", teacher))}
    generator = torch.Generator().manual_seed(0)
    asked = torch.randperm(len(unit_patches(maps["t"][1])), generator=generator)[: QUERIES_PER_PHOTO * len(photos)]
    library, queries = unit_patches(maps["t"][0]), unit_patches(maps["t"][1])[asked]
    best = nearest(queries, library)
    chosen = nearest(unit_patches(maps["s"][1])[asked], unit_patches(maps["s"][0]))
    best_ncc, chosen_ncc = ((queries * library[rows]).sum(1).mean() for rows in (best, chosen))
    table = {
        "paintings": len(paintings),
        "photographs": len(photos),
        "library_patches": len(library),
        "queries": len(asked),
        "best_ncc": round(float(best_ncc), 4),
        "chosen_ncc": round(float(chosen_ncc), 4),
        "ratio": round(float(chosen_ncc / best_ncc), 4),
        "same_patch": round(float((best == chosen).float().mean()), 4),
        "linear_fit_r2": round(linear_fit_r2(maps["s"][0], maps["t"][0], maps["s"][1], maps["t"][1]), 4),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(table, indent=1) + "\n")
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
