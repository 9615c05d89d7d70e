"""One picture from several paintings of a photograph, each after a library of its own, and each in its regions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from kt_batch.config import Layer
from kt_batch.kernels.regions import blended, patch_regions, soft_masks, some
from kt_batch.methods.base import LevelProvenance, PatchProvenance, Result


def in_regions(results: Mapping[int, Result], regions: Tensor, strides: Mapping[Layer, int]) -> Result:
    """Return the picture and the provenance of several paintings of one photograph, each in its regions.

    Pictures are blended over soft edges. A patch has the match of the region that most of its pixels are in. Paintings
    of no strength are the photograph, and any of them is returned.

    Args:
        results: Number of a library -> the painting `(3, H, W)` after it, for each number in `regions`.
        regions: `(H, W)` int64, the number of the library of each pixel.
        strides: Of each level.
    """
    first = next(iter(results.values()))
    if not isinstance(first.provenance, LevelProvenance):
        return first
    numbers = sorted(results)
    masks = some(soft_masks(regions, numbers[-1] + 1), numbers)
    pictures = [cast("Tensor", results[number].output) for number in numbers]
    output = pictures[0] if len(numbers) == 1 else blended(pictures, list(masks)).clamp(0, 1)
    seconds = {stage: sum(each.seconds[stage] for each in results.values()) for stage in first.seconds}
    found = {number: cast("LevelProvenance", results[number].provenance).levels for number in numbers}
    levels = {
        layer: _chosen({number: found[number][layer] for number in numbers}, regions, strides[layer])
        for layer in first.provenance.levels
    }
    return Result(output, LevelProvenance(levels), seconds)


def _chosen(found: Mapping[int, PatchProvenance], regions: Tensor, stride: int) -> PatchProvenance:
    """Return the matches of one level, each from the painting after the library of its region."""
    first = next(iter(found.values()))
    of = patch_regions(regions.cpu(), first.rows, first.cols, stride)
    chosen = replace(first, libraries=of.to(torch.uint8)[:, None].expand(first.ncc.shape))
    for number, each in found.items():
        mine = of == number
        chosen = replace(
            chosen,
            patch_ids=torch.where(mine[:, None, None], each.patch_ids, chosen.patch_ids),
            ncc=torch.where(mine[:, None], each.ncc, chosen.ncc),
            weights=torch.where(mine[:, None], each.weights, chosen.weights),
            certified=torch.where(mine, each.certified, chosen.certified),
        )
    return chosen
