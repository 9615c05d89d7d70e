"""Patch realism: whether the patches of a result occur in the painting."""

from __future__ import annotations

import torch
from torch import Tensor

from kt_batch.kernels.patches import positions, unfold
from kt_batch.kernels.tiles import normalise
from kt_batch.methods.features import encode
from kt_batch.models.encoder import Encoder

LAYER = "relu3_1"
QUERY_STRIDE = 2  # cells between the patches of a result
BLOCK = 1024  # queries compared at a time


@torch.no_grad()
def normal_patches(encoder: Encoder, picture: Tensor, stride: int) -> Tensor:
    """Return the patches of a picture `(3, H, W)` at relu3_1 of kt-vgg, `(n, D)`, each of length 1 or 0."""
    features = encode(encoder, picture, LAYER)
    return normalise(unfold(features, *positions(features.shape[1], features.shape[2], stride, cover=False)).flatten(1))


def patch_realism(queries: Tensor, painting: Tensor) -> float:
    """Return the mean best NCC of a result's patches among the painting's.

    A patch has 2 x 2 cells of kt-vgg's relu3_1. Every second cell of the result, along both axes, begins a query; all
    patches of the painting are compared, so there is no error of a search. 1 where every query occurs in the painting.

    Args:
        queries: `(n, D)` of the result, from `normal_patches` with QUERY_STRIDE.
        painting: `(N, D)`, with a stride of 1.
    """
    best = torch.cat([(block @ painting.T).amax(1) for block in queries.split(BLOCK)])
    return float(best.double().mean().clamp(max=1))
