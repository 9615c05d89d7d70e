"""A method with three levels, whose matches are the same everywhere and known beforehand."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from kt_batch.config import EncoderConfig, Layer, MethodConfig
from kt_batch.index.ids import pack_ids
from kt_batch.kernels.patches import positions
from kt_batch.methods.base import LevelProvenance, Need, PatchProvenance, Resources, Result


class StrataConfig(MethodConfig):
    """The source image of each level, from coarse to fine."""

    method: Literal["strata"] = "strata"
    encoder: EncoderConfig
    images: tuple[str, str, str]


class Strata:
    """Returns the photograph, and says that each level came from one patch.

    relu3_1: from row 2, column 3, NCC 0.5, certified. relu2_1: from row 1, column 4, NCC 0.25. relu1_1: from row 5,
    column 7, NCC 0.703.
    """

    config_type: ClassVar[type[MethodConfig]] = StrataConfig
    needs: ClassVar[frozenset[Need]] = frozenset({Need.ENCODER, Need.INDEX})
    stages: ClassVar[tuple[str, ...]] = ("stack",)
    layer: ClassVar[Layer | None] = "relu3_1"
    levels: ClassVar[tuple[Layer, ...]] = ()
    stride = 4

    def __init__(self, config: StrataConfig, resources: Resources) -> None:
        self.images = config.images

    def translate(self, image: Tensor) -> Result:
        """Return the photograph `(3, H, W)`."""
        first, second, third = self.images
        levels: dict[Layer, PatchProvenance] = {
            "relu3_1": everywhere(image, 4, first, (2, 3), 0.5, certified=True),
            "relu2_1": everywhere(image, 2, second, (1, 4), 0.25),
            "relu1_1": everywhere(image, 1, third, (5, 7), 0.703),
        }
        return Result(image, LevelProvenance(levels), {"stack": 0.25})


def everywhere(
    image: Tensor, stride: int, source: str, cell: tuple[int, int], ncc: float, *, certified: bool = False
) -> PatchProvenance:
    """Return that every patch of an image came from one patch of a source."""
    rows, cols = positions(image.shape[1] // stride, image.shape[2] // stride, 1, cover=True)
    patch = pack_ids(source, np.array([cell[0]]), np.array([cell[1]]))
    ones = torch.ones(len(rows), 1)
    ids = torch.from_numpy(patch)[:, None].repeat(len(rows), 1, 1)
    return PatchProvenance(rows, cols, ids, ncc * ones, ones, torch.full((len(rows),), certified))
