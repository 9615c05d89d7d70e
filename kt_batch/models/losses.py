"""The terms that training minimises, one function each; batches in, one number out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kt_batch.kernels.patches import fold, positions, unfold


def unexplained(predicted: Tensor, target: Tensor) -> Tensor:
    """1 - R2, all channels together: |p - t|^2 / |t - mean(t)|^2, both `(n, C, h, w)`, the mean per channel."""
    centre = target.mean(dim=(0, 2, 3), keepdim=True)
    return (predicted - target).square().sum() / (target - centre).square().sum()


def code_loss(code: Tensor, projection: Tensor, target: Tensor) -> Tensor:
    """How much of the teacher's features the code leaves unexplained when the code's own map is turned round.

    code `(n, C, h, w)` = W s, projection W `(C, N, 1, 1)`, target t `(n, N, h, w)`: 1 - R2 of W^T W s. With the same W
    both ways the best code is the projection on principal directions, whose rows are orthonormal, so that inner
    products, and with them NCC, are the teacher's (Baldi & Hornik 1989).
    """
    return unexplained(F.conv2d(code, projection.transpose(0, 1)), target)


def affinity_loss(student: Tensor, teacher: Tensor, index: Tensor) -> Tensor:
    """Mean squared difference of the NCC between the same random 2x2 patches in both feature maps.

    student `(n, Cs, h, w)`, teacher `(n, Ct, h, w)`, index `(m,)` into the n*(h-1)*(w-1) patches. What counts for a
    match is not the features but which patch is nearest to which.
    """

    def ncc(features: Tensor) -> Tensor:
        patches = F.unfold(features, 2).transpose(1, 2).reshape(-1, 4 * features.shape[1])[index]
        unit = F.normalize(patches, dim=1)
        return unit @ unit.T

    return (ncc(student) - ncc(teacher)).square().mean()


@torch.no_grad()
def swapped(features: Tensor) -> Tensor:
    """`(n, C, h, w)` -> the same shape: every 2x2 patch replaced by the nearest (NCC) of the next image of the batch.

    What a decoder is given in a translation: patches of other images, averaged where they overlap (section 3.4).
    """
    rows, cols = positions(features.shape[2], features.shape[3], 1, True)
    rows, cols = rows.to(features.device), cols.to(features.device)
    out = []
    for content, style in zip(features, features.roll(-1, 0), strict=True):
        queries, library = unfold(content, rows, cols), unfold(style, rows, cols)
        nearest = (queries.flatten(1) @ F.normalize(library.flatten(1), dim=1).T).argmax(1)
        out.append(fold(library[nearest], rows, cols, features.shape[2], features.shape[3]))
    return torch.stack(out)
