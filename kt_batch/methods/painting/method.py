"""Coarse to fine: forms from the matches of an index, strokes from the neighbourhood of those matches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self, cast

import numpy as np
import torch
from pydantic import Field as Setting
from pydantic import model_validator
from torch import Tensor

from kt_batch.config import EncoderConfig, Layer, MethodConfig, SearchConfig, Searcher
from kt_batch.errors import UsageError
from kt_batch.index.collection import Collection, by_number, nothing_of
from kt_batch.index.ids import ID_BYTES, pack_ids, unpack_ids
from kt_batch.index.index import Index
from kt_batch.index.search import open_search
from kt_batch.index.served.index import ServedIndex
from kt_batch.kernels.colour import preserve_colour
from kt_batch.kernels.evened import evened
from kt_batch.kernels.neighbour_field import Field, Gallery, complete, rebuild, same_matches
from kt_batch.kernels.patches import positions, unfold
from kt_batch.kernels.smooth import quick_mean
from kt_batch.kernels.tone import readable
from kt_batch.kernels.transport import Bands, Gaussian, mixture_of_bands, principal_directions, transport_bands
from kt_batch.methods.base import LevelProvenance, Need, PatchProvenance, Resources, Result, SourceProvenance
from kt_batch.methods.features import timed
from kt_batch.methods.painting.gallery import TONE, Source, Sources, Usual
from kt_batch.methods.painting.large import enlarged
from kt_batch.methods.painting.levels import (
    CARRIED,
    FLAT_ENOUGH,
    GAINS,
    LAST,
    LAYERS,
    LEVELS,
    SMALLEST,
    Level,
    calm,
    decode_code,
    encode_levels,
    encode_photograph,
    flatness,
)
from kt_batch.methods.painting.match import match
from kt_batch.methods.painting.regions import in_regions
from kt_batch.methods.painting.strokes import Size, relocated
from kt_batch.methods.styles import EncodedRegions, region_choices

# Directions of most variance, in which a place must be better before it is compared in full.
DIRECTIONS: dict[Layer, int] = {"relu4_1": 48, "relu3_1": 36, "relu2_1": 24}


class PaintingConfig(MethodConfig):
    """The settings of `painting`."""

    method: Literal["painting"] = "painting"
    encoder: EncoderConfig
    search: SearchConfig = SearchConfig()
    strength: float = Setting(1.0, ge=0.0, le=1.0, description="0: the photograph; 1: all of the painting.")
    sources: int = Setting(4, ge=1, le=16, description="Paintings that one picture is made from, at most.")
    levels: int = Setting(
        3,
        ge=1,
        le=3,
        description="Levels at which the picture is painted, the finest first; 2 and 1 leave out coarse ones: faster.",
    )
    stroke: float = Setting(
        1.0,
        ge=0.25,
        le=4.0,
        description="Size of the strokes: 1 is that of the paintings, 2 twice as large, 0.5 half. A painting is "
        "enlarged up to 1024 pixels.",
    )
    brushwork: bool = Setting(True, description="Give flat parts, such as skies, strokes of the paintings.")
    preserve_colour: bool = Setting(False, description="Keep the photograph's own colours.")

    @model_validator(mode="after")
    def _one_match(self) -> Self:
        if self.search.top_k != 1:
            raise ValueError(f"painting takes the nearest patch alone, so top_k is 1, not {self.search.top_k}")
        return self

    @model_validator(mode="after")
    def _coarse_first(self) -> Self:
        if self.encoder.layer != LAYERS[0]:
            raise ValueError(f"painting begins at {LAYERS[0]}, and the encoder is cut at {self.encoder.layer}")
        return self

    @property
    def searcher(self) -> Searcher:
        """The searcher that looks for coarse patches."""
        return self.search.searcher


@dataclass(frozen=True)
class Chosen:
    """The source images of one picture, and their shares of its coarse matches."""

    ids: tuple[str, ...]
    images: tuple[Source, ...]
    shares: tuple[float, ...]

    def wanted(self, layer: Layer) -> Bands:
        """Return the moments that the picture gets at a layer: those of the sources, by their shares."""
        return mixture_of_bands([image.bands[layer] for image in self.images], self.shares)

    def cells(self, layer: Layer) -> list[Size]:
        """Return the size of each source's codes at a layer."""
        return [(each.shape[0], each.shape[1]) for each in (image.cells[layer] for image in self.images)]

    def own_cells(self, stride: int) -> list[Size]:
        """Return the same at the stride of a layer, with each source in its own size."""
        return [(image.size[0] // stride, image.size[1] // stride) for image in self.images]

    def gallery(self, layer: Layer, whole: Gaussian) -> Gallery:
        """Return the codes of the sources at a layer, compared after standardising them all alike.

        What is transferred is a code, and its mean around each cell.
        """
        mean, deviation = whole.mean.float(), whole.deviation.float() + SMALLEST
        cells = [image.cells[layer] for image in self.images]
        return Gallery.of([(each[:, :, : len(mean)] - mean) / deviation for each in cells], cells)


class Painting(EncodedRegions):
    """Paints photographs like the pictures of a library.

    In regions, a photograph is painted as a whole after the library of each, and these paintings are blended by the
    masks: so all regions keep the light that they have in the photograph.
    """

    config_type: ClassVar[type[MethodConfig]] = PaintingConfig
    needs: ClassVar[frozenset[Need]] = frozenset({Need.ENCODER, Need.DECODERS, Need.INDEX, Need.IMAGES})
    stages: ClassVar[tuple[str, ...]] = ("encode", "search", "sources", "match", "transfer", "decode")
    layer: ClassVar[Layer | None] = LAYERS[0]
    levels: ClassVar[tuple[Layer, ...]] = LAYERS

    def __init__(self, config: PaintingConfig, resources: Resources, sources: Sources | None = None) -> None:
        """Take what the method needs, and the encoded sources that are at hand."""
        if resources.encoder is None or not resources.decoders or resources.index is None or resources.images is None:
            raise UsageError("The method painting needs an encoder, decoders, an index and its library's images.")
        self.config = config
        self.encoder, self.decoders = resources.encoder, resources.decoders
        self.strides = {layer: self.encoder.geometry(layer).stride for layer in LAYERS}
        self.stride = max(self.strides.values())
        self.cut = config.encoder.layer
        self.sources = sources or Sources(self.encoder, resources.images, config.stroke)
        self.resources, self.painters = resources, dict[int, Painting]()
        if region_choices(config) == 0:
            self.search = open_search(resources.index, config.search)
            self.usual = Usual.of(self.encoder, resources.images)
        self.plan = LEVELS if config.brushwork else tuple(replace(level, flat_share=0.0) for level in LEVELS)

    def translate(self, image: Tensor, regions: Tensor | None = None) -> Result:
        """Paint one photograph `(3, H, W)` float32 RGB in [0, 1]; see `LEVELS` for what each level does.

        Its sides are multiples of the coarse level's stride, and two cells long or more, as `pad_to` makes them.
        `regions` has the number of the library of each pixel, `(H, W)` int64; None: all libraries everywhere.
        """
        if region_choices(self.config) == 0:
            return self._painted(image)
        if regions is None:
            raise UsageError("Libraries are given for regions, and the picture has none.")
        painted = {number: self._painter(number).translate(image) for number in torch.unique(regions).tolist()}
        return in_regions(painted, regions, self.strides)

    def _painter(self, number: int) -> Painting:
        """Return what paints after one library. Raises UsageError where nothing of it is allowed."""
        if number not in self.painters:
            indexes = by_number(cast("Index | Collection | ServedIndex", self.resources.index))
            if number not in indexes:
                raise UsageError(nothing_of(number))
            images = self.resources.images_by_library[number]
            alone = replace(self.resources, index=indexes[number], images=images, images_by_library=())
            config = self.config.model_copy(update={"regions": None, "masks_sha256": None})
            self.painters[number] = Painting(config, alone, self.sources)
        return self.painters[number]

    @torch.no_grad()
    def _painted(self, image: Tensor) -> Result:
        seconds = dict.fromkeys(self.stages, 0.0)
        if self.config.strength == 0:
            return Result(image, SourceProvenance({}), seconds)
        with timed(seconds, "encode"):
            own, features = encode_photograph(self.encoder, image, LAYERS[:-1] if self.config.strength == 1 else LAYERS)
        chosen, found, certified = self._choose(features, seconds)
        field = relocated(found, chosen.own_cells(self.stride), chosen.cells(LAYERS[0]))
        picture, traces = image, []
        for number, level in enumerate(self.plan):
            wanted = chosen.wanted(level.layer)
            gallery = chosen.gallery(level.layer, wanted.whole)
            directions = principal_directions(wanted.whole, DIRECTIONS[level.layer])
            flat = flatness(image, self.strides[level.layer])
            with timed(seconds, "encode"):
                current = own if picture is image else encode_levels(self.encoder, picture, (level.layer,))
            with timed(seconds, "match"):
                queries = _queries(level, own[level.layer], current[level.layer], flat)
                start = field.finer(*flat.shape) if number else complete(queries, gallery, field, directions)
                even = (flat[:-1, :-1] > FLAT_ENOUGH) & self.config.brushwork
                field, score = match(queries, gallery, start, directions, even, first=not number)
            own_cells = chosen.own_cells(self.strides[level.layer])
            place = relocated(field, chosen.cells(level.layer), own_cells)
            traces.append((level.layer, place, score))
            if not number:  # the place that is recorded, which another size can move
                certified &= same_matches(found, place)
            if number < len(LEVELS) - self.config.levels:
                continue
            with timed(seconds, "transfer"):
                moved = torch.lerp(own[level.layer], current[level.layer], CARRIED)
                code = _transfer(level, moved, flat, wanted, rebuild(gallery, field))
            with timed(seconds, "decode"):
                picture = evened(self._decode(level.layer, code, own), image)
        with timed(seconds, "encode"):
            last = encode_levels(self.encoder, picture, (LAST,))[LAST]
        with timed(seconds, "decode"):
            output = self._decode(LAST, transport_bands(last, chosen.wanted(LAST), GAINS), own)
            output = readable(output, image)
        if self.config.preserve_colour:
            output = preserve_colour(output, image)
        return Result(output, _provenance(chosen.ids, traces, certified), seconds)

    @torch.no_grad()
    def enlarge(self, result: Result, photograph: Tensor, large: Tensor) -> Result:
        """See `Enlarger`: strokes grow with the picture, edges get the photograph's detail in painted colours."""
        if self.config.strength == 0:
            return replace(result, output=large)
        with timed(result.seconds, "decode"):
            painted = cast("Tensor", result.output)[:, : photograph.shape[1], : photograph.shape[2]]
            picture = enlarged(painted, photograph, large)
            if self.config.preserve_colour:
                picture = preserve_colour(picture, large)
        return replace(result, output=picture)

    def _choose(self, features: Tensor, seconds: dict[str, float]) -> tuple[Chosen, Field, Tensor]:
        """Return the source images that have the most matches, the matches in them, and which are proved to be best.

        Matches are in the own sizes of the images. A patch whose match is in no chosen image has the source -1.
        """
        height, width = features.shape[1:]
        rows, cols = positions(height, width, 1, cover=True, device=features.device)
        with timed(seconds, "search"):
            queries = unfold(self.usual.recolour(features), rows, cols)
            found = self.search.search(queries)
        images, source_rows, source_cols = unpack_ids(found.patch_ids[:, 0].numpy())
        ids, codes, counts = np.unique(images.view(">u8")[:, 0], return_inverse=True, return_counts=True)
        order = np.lexsort((ids, -counts))[: self.config.sources]
        rank = np.full(len(ids), -1)
        rank[order] = np.arange(len(order))
        with timed(seconds, "sources"):
            names = tuple(f"{ids[place]:016x}" for place in order)
            loaded = tuple(self.sources[name] for name in names)
        shares = tuple(float(counts[place] / counts[order].sum()) for place in order)
        grid = (height - 1, width - 1)
        parts = (rank[codes], source_rows.astype(np.int64), source_cols.astype(np.int64))
        field = Field(*(torch.from_numpy(part).view(grid).to(features.device) for part in parts))
        return Chosen(names, loaded, shares), field, found.certified

    def _decode(self, layer: Layer, code: Tensor, own: dict[Layer, Tensor]) -> Tensor:
        strength = self.config.strength
        return decode_code(self.decoders[layer], code if strength == 1 else torch.lerp(own[layer], code, strength))


def _queries(level: Level, own: Tensor, current: Tensor, flat: Tensor) -> Tensor:
    """Return the cells `(h, w, C)` that are compared: forms without regard to brightness and colour."""
    mixed = torch.lerp(standardised(current), standardised(own), level.anchor)
    return calm(mixed, flat).permute(1, 2, 0).contiguous()


def _transfer(level: Level, moved: Tensor, flat: Tensor, wanted: Bands, matched: Tensor) -> Tensor:
    """Return the code of a level, with the wanted moments: matched patches over `moved` in their colours."""
    swapped, tone = matched.chunk(2)
    base = transport_bands(moved, wanted, GAINS)
    # Where the photograph is flat, matches give their strokes and not their tone: two tones would make blotches.
    swapped = swapped + flat * (quick_mean(base, TONE) - tone)
    share = level.share + flat * (level.flat_share - level.share)
    return transport_bands(torch.lerp(base, swapped, share), wanted, GAINS)


def standardised(code: Tensor) -> Tensor:
    """Return a code `(C, h, w)` with mean 0 and deviation 1 in each channel."""
    centred = code - code.mean((1, 2), keepdim=True)
    deviation = centred.square().mean((1, 2), keepdim=True).sqrt()
    return centred / (deviation + SMALLEST)


def _provenance(
    ids: Sequence[str], traces: Sequence[tuple[Layer, Field, Tensor]], certified: Tensor
) -> LevelProvenance:
    return LevelProvenance(
        {
            layer: _patches(ids, field, score, certified if not number else None)
            for number, (layer, field, score) in enumerate(traces)
        }
    )


def _patches(ids: Sequence[str], field: Field, score: Tensor, certified: Tensor | None) -> PatchProvenance:
    height, width = field.row.shape
    rows, cols = positions(height + 1, width + 1, 1, cover=True)
    source, row, col = (each.flatten().cpu().numpy() for each in (field.source, field.row, field.col))
    patch_ids = np.empty((len(row), ID_BYTES), np.uint8)
    for number, identity in enumerate(ids):
        mine = source == number
        patch_ids[mine] = pack_ids(identity, row[mine], col[mine])
    count = len(row)
    sure = torch.zeros(count, dtype=torch.bool, device="cpu") if certified is None else certified.cpu()
    weights = torch.ones(count, 1, device="cpu")
    return PatchProvenance(rows, cols, torch.from_numpy(patch_ids)[:, None], score.view(count, 1).cpu(), weights, sure)
