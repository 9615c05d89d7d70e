"""StyleBank (Chen et al. 2017): features of an auto-encoder, convolved with the filter bank of a style."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from kt_batch.config import BankShare, Layer, MethodConfig
from kt_batch.errors import UsageError, WeightsError
from kt_batch.kernels.filter_banks import filtered, fused, mixture
from kt_batch.kernels.grid import without_grid
from kt_batch.methods.base import Need, Resources, Result, SourceProvenance
from kt_batch.methods.features import check_finite, timed
from kt_batch.methods.styles import Mixes, Parts, SharesAreas, TakesRegions
from kt_batch.models.stylebank import STRIDE


class StyleBankConfig(MethodConfig):
    """The settings of `stylebank`."""

    method: Literal["stylebank"] = "stylebank"
    network: str = Field(description="Content id of the network that the banks belong to.")
    banks: tuple[BankShare, ...] = Field(min_length=1, description="Filter banks, by ascending content id.")


class StyleBank(TakesRegions, SharesAreas):
    """Encodes a photograph, convolves its features with a mixture of filter banks (eq. 5), and decodes them.

    In regions, the features of each region are convolved with its own bank, and their sum is decoded (eq. 6).
    """

    config_type: ClassVar[type[MethodConfig]] = StyleBankConfig
    needs: ClassVar[frozenset[Need]] = frozenset({Need.BANKS})
    stages: ClassVar[tuple[str, ...]] = ("encode", "transfer", "decode")
    layer: ClassVar[Layer | None] = None
    levels: ClassVar[tuple[Layer, ...]] = ()
    stride = STRIDE

    def __init__(self, config: StyleBankConfig, resources: Resources) -> None:
        if resources.banks is None:
            raise UsageError("The method stylebank needs filter banks and their network.")
        self.config = config
        self.network = resources.banks.network
        weights = [share.weight for share in config.banks]
        if config.region_banks:
            self.banks = list(resources.banks.banks)
            mixes = [shares_of((share.model_copy(update={"weight": 1.0}),)) for share in config.banks]
            self.mixes = Mixes(mixes, config.region_banks)
        else:
            self.banks = [mixture(resources.banks.banks, weights)]
            self.mixes = Mixes([shares_of(config.banks)])

    @torch.no_grad()
    def translate(self, image: Tensor, regions: Tensor | None = None) -> Result:
        """Translate one image.

        Args:
            image: `(3, H, W)` float32 RGB in [0, 1]; both sides are multiples of the stride.
            regions: `(H, W)` int64, the number of the bank of each pixel; None: one bank or mixture everywhere.

        Raises:
            WeightsError: Values of the banks are so large that a picture would hold NaN.
        """
        parts = self.mixes.parts(regions)
        seconds: dict[str, float] = {}
        with timed(seconds, "encode"):
            features = self._encoded(image)
        with timed(seconds, "transfer"):
            styled = self._styled(features, parts)
        with timed(seconds, "decode"):
            output = self.network.decode(styled)[0].clamp(0, 1).contiguous()
            output = without_grid(output, STRIDE)
        if not output.isfinite().all():
            raise WeightsError("With these filter banks a picture holds NaN; take other banks.")
        return Result(output, SourceProvenance(self.mixes.shares(parts)), seconds)

    def features_of_regions(self, image: Tensor) -> Tensor:
        """Return the features `(C, h, w)` of an image in the banks' network."""
        return self._encoded(image)[0]

    def _encoded(self, image: Tensor) -> Tensor:
        return check_finite(self.network.encode(image[None]), "features")

    def _styled(self, features: Tensor, parts: Parts) -> Tensor:
        """Return features `(1, C, h, w)` after the bank of each part."""
        banks = [self.banks[number] for number in parts.styles]
        masks = [mask for mask in parts.masks_on(*features.shape[2:]) if mask is not None]
        return fused(features, banks, torch.stack(masks)) if masks else filtered(features, banks[0])


def shares_of(banks: tuple[BankShare, ...]) -> dict[str, float]:
    """Return the share of each style image: the weight of its bank, split evenly among several images of a bank."""
    shares: dict[str, float] = {}
    for each in banks:
        for image in each.images:
            shares[image] = shares.get(image, 0.0) + each.weight / len(each.images)
    return dict(sorted(shares.items()))
