"""The measures that need VGG-19: style distance and structure."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kt_batch.errors import WeightsError
from kt_batch.evaluation.style.sliced import Curves, directions, distance, quantile_curves, sample
from kt_batch.models.encoder import Encoder
from kt_batch.models.layers import CUT_POINTS

GRID = 32  # cells a side, to which relu4_1 is averaged for self-similarity
DEEPEST = CUT_POINTS[-1]


@dataclass(frozen=True)
class Seen:
    """A picture as VGG-19 sees it.

    curves: quantiles of the projected features, by layer. similarity: of the cells of relu4_1, `(n, n)`.
    """

    curves: dict[str, Curves]
    similarity: Tensor


class NetworkMeasures:
    """Style distance and structure, by VGG-19 up to relu4_1.

    The published figures are of the network in which the mean activation of each channel is one ("normalised", Gatys et
    al. 2016), with reflected borders.
    """

    def __init__(self, encoder: Encoder, where: str) -> None:
        """Take the network. Raises WeightsError, which names `where`, unless it reaches relu4_1."""
        if DEEPEST not in encoder.layers:
            raise WeightsError(
                f"The style measures need VGG-19 up to {DEEPEST}; '{where}' ends at {encoder.layers[-1]}."
            )
        self._encoder = encoder
        self._axes = dict(zip(CUT_POINTS, directions([encoder.channels_at(cut) for cut in CUT_POINTS]), strict=True))

    @torch.no_grad()
    def see(self, picture: Tensor) -> Seen:
        """Return what both measures need of a picture `(3, H, W)` in [0, 1]; both sides are multiples of 8."""
        batch = picture[None].contiguous(memory_format=torch.channels_last)
        features = {cut: values[0] for cut, values in self._encoder.activations(batch, CUT_POINTS).items()}
        curves = {}
        for cut, values in features.items():
            vectors = values.flatten(1)
            curves[cut] = quantile_curves(vectors[:, sample(vectors.shape[1])], self._axes[cut])
        return Seen(curves, self_similarity(features[DEEPEST]))


def style_distances(result: Seen, painting: Seen) -> dict[str, float]:
    """Return the style distance of a result at relu1_1, relu2_1, relu3_1 and relu4_1.

    It is the sliced Wasserstein distance of the features of the result to those of the painting: over 256 random
    directions (seed 0) and 512 quantiles from 0.002 to 0.998, the mean distance of quantiles, divided by the mean
    distance of the painting's quantiles from their mean. Of more than 16,000 cells, 16,000 are sampled (seed 1). The
    style distance of a result is the mean of the four.
    """
    return {cut: distance(result.curves[cut], painting.curves[cut]) for cut in CUT_POINTS}


def structure(result: Seen, photograph: Seen) -> float:
    """Return the correlation of two pictures' self-similarities, over all ordered pairs of cells.

    1: the same parts are alike in both pictures, whatever their colours and strokes are. About 0: no common structure.
    """
    stacked = torch.stack([result.similarity.flatten(), photograph.similarity.flatten()])
    return float(torch.corrcoef(stacked)[0, 1].clamp(-1, 1))


def self_similarity(features: Tensor) -> Tensor:
    """Return the cosine of every two cells of features `(C, h, w)`.

    The features are averaged to 32 x 32 cells, and the mean of each channel is removed.
    """
    cells = F.adaptive_avg_pool2d(features[None], GRID)[0].flatten(1)
    cells = F.normalize(cells - cells.mean(1, keepdim=True), dim=0)
    return cells.T @ cells
