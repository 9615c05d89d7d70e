"""The paper's method: match every patch in a library's index, swap, decode."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor

from kt_batch.config import EncoderConfig, Layer, MethodConfig, SearchConfig, Searcher
from kt_batch.errors import UsageError
from kt_batch.index.by_region import RegionSearch
from kt_batch.index.collection import deviation_of
from kt_batch.index.search import Matches, Search, open_search
from kt_batch.index.threads import parallel_map
from kt_batch.kernels.colour import luminance, preserve_colour
from kt_batch.kernels.patches import positions, unfold
from kt_batch.kernels.regions import patch_regions
from kt_batch.kernels.swap import blend, geometric_swap, statistics_swap, top_k_weights
from kt_batch.kernels.tiles import canonical_scores, normalise
from kt_batch.methods.base import Edit, Need, PatchProvenance, Resources, Result
from kt_batch.methods.details import DetailsConfig, details_kept
from kt_batch.methods.features import decode, decode_styled, encode, timed
from kt_batch.methods.full_size_swap import colour_maps
from kt_batch.methods.styles import EncodedRegions, region_choices

MATCHES_PER_TASK = 1024  # a task's matches stay in a core's cache


class KnowledgeConfig(DetailsConfig):
    """The settings of `knowledge`."""

    method: Literal["knowledge"] = "knowledge"
    encoder: EncoderConfig
    search: SearchConfig = SearchConfig()
    swap: Literal["geometric", "statistics"] = Field(
        "geometric",
        description="Replace patches (paintings), or transfer their local mean and deviation (photographs).",
    )
    alpha: float = Field(1.0, ge=0.0, le=1.0, description="1: all swapped; 0: the picture through encoder and decoder.")
    temperature: float = Field(0.05, gt=0.0, description="The weights of the top k are softmax(NCC / temperature).")
    query_stride: int = Field(1, ge=1, le=2, description="Step between query patches, in cells.")
    preserve_colour: bool = Field(False, description="Keep the photograph's own colours.")
    full_size: bool = Field(
        False,
        description="Apply what a statistics swap does to colours to the photograph's own pixels, at their full size.",
        exclude_if=lambda on: not on,  # plans of runs without it stay as they were
    )

    @model_validator(mode="after")
    def _edit_what_keeps_its_shapes(self) -> Self:
        if self.full_size and self.swap != "statistics":
            raise ValueError(f"full_size is for the swap statistics, not for {self.swap}")
        return self

    @property
    def searcher(self) -> Searcher:
        """The searcher that looks for patches."""
        return self.search.searcher


class KnowledgeTransfer(EncodedRegions):
    """Translates images with one encoder, one decoder and one index.

    In regions, a patch has its match from the library of the region that most of its pixels are in. A cell at an edge
    is the mean of patches on both sides, so edges are soft over two cells.
    """

    config_type: ClassVar[type[MethodConfig]] = KnowledgeConfig
    needs: ClassVar[frozenset[Need]] = frozenset({Need.ENCODER, Need.DECODER, Need.INDEX})
    stages: ClassVar[tuple[str, ...]] = ("encode", "search", "swap", "decode")
    layer: ClassVar[Layer | None] = "relu3_1"
    levels: ClassVar[tuple[Layer, ...]] = ()

    def __init__(self, config: KnowledgeConfig, resources: Resources) -> None:
        if resources.encoder is None or resources.decoder is None or resources.index is None:
            raise UsageError("The method knowledge needs an encoder, a decoder and an index.")
        self.config = config
        self.encoder, self.decoder = resources.encoder, resources.decoder
        self.deviation = deviation_of(resources.index).to(resources.device)
        self.by_region = RegionSearch(resources.index, config.search) if region_choices(config) else None
        self.search = None if self.by_region else open_search(resources.index, config.search)
        self.cut = config.encoder.layer
        self.stride = self.encoder.geometry(self.cut).stride

    @torch.no_grad()
    def translate(self, image: Tensor, regions: Tensor | None = None) -> Result:
        """Translate one image.

        Args:
            image: `(3, H, W)` float32 RGB in [0, 1]; both sides are multiples of the stride and at least twice it.
            regions: `(H, W)` int64, the number of the library of each pixel; None: all libraries everywhere.
        """
        seconds: dict[str, float] = {}
        with timed(seconds, "encode"):
            features = encode(self.encoder, image, self.cut)
        height, width = features.shape[1:]
        rows, cols = positions(height, width, self.config.query_stride, cover=True, device=features.device)
        queries, libraries = unfold(features, rows, cols), self._libraries(regions, rows, cols)
        with timed(seconds, "search"):
            matches = self._matches(queries, libraries)
        with timed(seconds, "swap"):
            ncc = match_ncc(queries, matches)
            weights = top_k_weights(ncc, self.config.temperature)
            matched = blend(matches.values, weights)
            swapped = self._swap(image, features, (queries, matched, rows, cols), libraries)
            mixed = features + self.config.alpha * (swapped - features)
        with timed(seconds, "decode"):
            picture = self._decode(image, mixed, features)
            output: Tensor | Edit = picture
            if self.config.full_size:
                output = colour_maps(self._decode(image, features, features), picture, self.config.encoder.size)
        recorded = (rows, cols, matches.patch_ids, ncc, weights, matches.certified)
        provenance = replace(PatchProvenance(*(each.cpu() for each in recorded)), libraries=matches.libraries)
        return Result(output, provenance, seconds)

    def _decode(self, image: Tensor, mixed: Tensor, features: Tensor) -> Tensor:
        alpha = self.config.alpha
        if self.config.swap == "geometric":
            output = decode_styled(self.decoder, mixed, features, 1 - alpha, details_kept(alpha, self.config.details))
        else:
            output = decode(self.decoder, mixed, features)
        return preserve_colour(output, image) if self.config.preserve_colour else output

    def _libraries(self, regions: Tensor | None, rows: Tensor, cols: Tensor) -> Tensor | None:
        """Return the library `(n,)` of each patch; None where each has all libraries."""
        if self.by_region is None:
            return None
        if regions is None:
            raise UsageError("Libraries are given for regions, and the picture has none.")
        return patch_regions(regions, rows, cols, self.stride)

    def _matches(self, queries: Tensor, libraries: Tensor | None) -> Matches:
        if self.by_region is not None and libraries is not None:
            return self.by_region.search(queries, libraries)
        return cast("Search", self.search).search(queries)

    def _swap(
        self,
        image: Tensor,
        features: Tensor,
        patches: tuple[Tensor, Tensor, Tensor, Tensor],
        libraries: Tensor | None,
    ) -> Tensor:
        """Return swapped features. patches: The query patches, their matches, and their top-left cells."""
        queries, matched, rows, cols = patches
        height, width = features.shape[1:]
        if self.config.swap == "geometric":
            return geometric_swap(matched, rows, cols, height, width)
        guide = torch.nn.functional.adaptive_avg_pool2d(luminance(image)[None], (height, width))[0]
        deviation = self.deviation
        if self.by_region is not None and libraries is not None:
            deviation = self.by_region.deviations(libraries)
        swapped = statistics_swap(features, queries, matched, rows, cols, deviation, guide, libraries)
        # An affine map can go below zero, where no decoder has seen an activation; a code may have any sign.
        return swapped if self.cut in self.encoder.codes else swapped.clamp_(min=0)


def match_ncc(queries: Tensor, matches: Matches) -> Tensor:
    """Return the NCC (eq. 2) of each query patch with each of its matches, whatever space the search used.

    Args:
        queries: Raw query patches `(n, 4, C)` float32.
        matches: Their matches, with values `(n, k, 4, C)`.

    Returns:
        `(n, k)` float32 in [-1, 1].
    """
    n, k = matches.scores.shape
    values = matches.values.flatten(0, 1)
    ncc = torch.empty(n * k, device=queries.device)

    def score(part: Tensor) -> None:
        matched = normalise(values.index_select(0, part).flatten(1))
        wanted = normalise(queries.index_select(0, part // k).flatten(1))
        ncc[part] = canonical_scores(wanted, matched).float()

    with parallel_map() as each:
        each(score, torch.arange(n * k, device=queries.device).split(MATCHES_PER_TASK))
    return ncc.view(n, k)
