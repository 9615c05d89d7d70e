"""Re-render one photograph after a few paintings in one process: no Ray, no library on disk."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from kt_batch.config import PAINTED_SPACE, EncoderConfig, ExtractConfig, IndexConfig, Layer, MatchSpace, MethodConfig
from kt_batch.errors import RejectError, UsageError
from kt_batch.index.collection import Collection
from kt_batch.index.ids import ID_BYTES, unpack_ids
from kt_batch.index.index import Index, build_in_memory
from kt_batch.kernels.haar import haar
from kt_batch.methods.base import LevelProvenance, Method, Need, PatchProvenance, Resources, Result, SourceProvenance
from kt_batch.methods.features import timed, to_tensor
from kt_batch.methods.styles import region_choices
from kt_batch.methods.table import method_named
from kt_batch.models.encoder import Encoder
from kt_batch.models.weights import EncoderSource, LoadedDecoder, LoadedEncoder, load_decoder, load_encoder
from kt_batch.pipelines.extract.worker import image_patches
from kt_batch.pipelines.inputs import find_images
from kt_batch.pipelines.numerics import fix_numerics
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.translate.large import translate_image
from kt_batch.pipelines.translate.library_images import load_decoders
from kt_batch.pipelines.translate.masks import Mask, Regions, read_regions
from kt_batch.pipelines.translate.resources import load_resources, source_uris
from kt_batch.pipelines.translate.sources import Sources
from kt_batch.pipelines.translate.style_images import mixed, style_places
from kt_batch.pipelines.translate.worker import encoded
from kt_batch.store.images.files import WorkingImage, decode, image_id, pad_to
from kt_batch.store.images.metadata.read import blocks_of
from kt_batch.store.images.rgb_spaces import RgbSpaces
from kt_batch.store.inputs import Found, Input, read_input
from kt_batch.store.passed_over import Kinds
from kt_batch.store.schemas import from_fixed_binary, patch_vectors

MAX_PAINTINGS = 16


@dataclass(frozen=True)
class SingleSummary:
    """The summary of `try`. shares: URI of a painting -> share of the photograph's patches that it gave. passed_over:
    Libraries and runs below the named folders. passed_over_files: Files that are no images, by kind.
    """

    ncc_mean: float | None  # None where the photograph is left as it is
    shares: dict[str, float]
    patches: int
    seconds: float
    stage_seconds: dict[str, float]
    passed_over: tuple[str, ...] = ()
    passed_over_files: Kinds = field(default_factory=dict)


@dataclass(frozen=True)
class Networks:
    """The networks of a method. decoder: Of a method with one; decoders: of one with levels."""

    encoder: LoadedEncoder
    decoder: LoadedDecoder | None
    decoders: Mapping[Layer, LoadedDecoder]

    @property
    def digests(self) -> dict[str, object]:
        """The fields of a configuration that name the decoders."""
        if self.decoder is not None:
            return {"decoder_sha256": self.decoder.sha256}
        if not self.decoders:
            return {}
        return {"decoders_sha256": tuple(decoder.sha256 for decoder in self.decoders.values())}

    @property
    def resources(self) -> dict[str, Any]:
        """The fields of `Resources` that hold the networks."""
        return {
            "encoder": self.encoder.network,
            "decoder": self.decoder.network if self.decoder else None,
            "decoders": {layer: loaded.network for layer, loaded in self.decoders.items()},
        }


def load_networks(source: EncoderSource, method: type[Method], layer: str, decoder_weights: str | None) -> Networks:
    """Load the networks of a method.

    Args:
        source: Where the encoder comes from.
        method: The method.
        layer: Where the encoder is cut, for a method with one decoder.
        decoder_weights: A file for that decoder; None: the shipped one.
    """
    encoder = load_encoder(source)
    if Need.DECODERS in method.needs:
        return Networks(encoder, None, load_decoders(encoder, source.name, method.levels))
    if Need.DECODER not in method.needs:
        return Networks(encoder, None, {})
    return Networks(encoder, load_decoder(encoder, source.name, layer, decoder_weights), {})


def translate_one(
    photo: str,
    paintings: Sequence[str],
    networks: Networks,
    method: type[Method],
    config: MethodConfig,
    threads: int,
    mask: Mask | None = None,
) -> tuple[bytes, SingleSummary]:
    """Re-render one photograph after paintings.

    Args:
        photo: A path or URI.
        paintings: Paths, globs or URIs of up to MAX_PAINTINGS images, each also with `=` and a weight.
        networks: Those of the method.
        method: One that takes the paintings as a library or as style images.
        config: How the photograph is translated; it names no index, and any style images.
        threads: Threads to compute on.
        mask: A label image that says which painting holds where.

    Returns:
        The bytes of a file of `config.format`, and a summary.

    Raises:
        RejectError: An image cannot be used. UsageError: There are too many paintings.
    """
    started = time.perf_counter()
    fix_numerics(threads)
    _, working = _read_image(photo, config.working_size, metadata=True)
    seconds: dict[str, float] = {}
    with timed(seconds, "extract"):
        found, config = _with_paintings(paintings, method, config, mask)
        names, images, tables = _read(
            found.inputs, networks.encoder.network, config, patches=Need.INDEX in method.needs
        )
    with timed(seconds, "index"):
        made = _made(method, config, networks, images, tables)
    result = translate_image(made, working, config, regions=_regions(mask, working, config))
    summary = _summary(result, names, started, seconds)
    summary = replace(summary, passed_over=tuple(found.ours), passed_over_files=found.passed_over)
    return encoded(cast("Tensor", result.output), working, config, RgbSpaces()), summary


def translate_chosen(
    photo: str, config: MethodConfig, sources: Sources, threads: int, mask: Mask | None = None
) -> tuple[bytes, SingleSummary]:
    """Re-render one photograph with what `choose` returned.

    Args:
        photo: A path or URI.
        config: The method and its settings.
        sources: Where what it needs is.
        threads: Threads to compute on.
        mask: A label image that says which filter bank holds where.

    Returns:
        As `translate_one`; the shares are of style images by their names.

    Raises:
        RejectError: The photograph cannot be used.
    """
    started = time.perf_counter()
    fix_numerics(threads)
    _, working = _read_image(photo, config.working_size, metadata=True)
    seconds: dict[str, float] = {}
    with timed(seconds, "load"):
        method = method_named(config.method)(config, load_resources(config, sources))
    result = translate_image(method, working, config, regions=_regions(mask, working, config))
    summary = _summary(result, source_uris(config, sources), started, seconds)
    return encoded(cast("Tensor", result.output), working, config, RgbSpaces()), summary


def _regions(mask: Mask | None, working: WorkingImage, config: MethodConfig) -> Regions | None:
    return read_regions(mask, working, region_choices(config)) if mask else None


def _summary(result: Result, names: Mapping[str, str], started: float, seconds: Mapping[str, float]) -> SingleSummary:
    """Return the summary of a result. names: Image id -> URI or name of a source. seconds: Of the stages before."""
    sources = _coarsest(result.provenance)
    return SingleSummary(
        ncc_mean=round(float(sources.ncc[:, 0].double().mean()), 6) if len(sources.ncc) else None,
        shares={names[identity]: round(share, 4) for identity, share in _shares(result.provenance, sources).items()},
        patches=len(sources.ncc),
        seconds=round(time.perf_counter() - started, 3),
        stage_seconds={stage: round(spent, 3) for stage, spent in {**seconds, **result.seconds}.items()},
    )


def _with_paintings(
    paintings: Sequence[str], method: type[Method], config: MethodConfig, mask: Mask | None
) -> tuple[Found, MethodConfig]:
    """Return the paintings, and the configuration with their weights, or with their places where there are regions."""
    given = style_places(paintings)
    found = find_images(given.places, (), no_progress)
    regions: dict[str, object] = {} if config.regions is None else {"regions": config.regions}
    wanted = {"masks_sha256": mask.digest} if mask else regions
    return found, config.model_copy(update=mixed(method, given, found, wanted))


def _coarsest(provenance: PatchProvenance | LevelProvenance | SourceProvenance) -> PatchProvenance:
    """Return the patches of a result, or those of its first level; none where it is the photograph itself."""
    if isinstance(provenance, LevelProvenance):
        return next(iter(provenance.levels.values()))
    if isinstance(provenance, PatchProvenance):
        return provenance
    none = torch.zeros(0, dtype=torch.int64, device="cpu")
    ids = torch.zeros(0, 1, ID_BYTES, dtype=torch.uint8, device="cpu")
    return PatchProvenance(none, none, ids, none.view(0, 1), none, none > 0)


def _shares(
    provenance: PatchProvenance | LevelProvenance | SourceProvenance, sources: PatchProvenance
) -> dict[str, float]:
    """Return the share of each painting by image id, the largest first: those recorded, or of the matched patches."""
    if isinstance(provenance, SourceProvenance):
        return dict(sorted(provenance.shares.items(), key=lambda each: -each[1]))
    counts = Counter(bytes(image).hex() for image in unpack_ids(sources.patch_ids[:, 0].numpy())[0])
    return {identity: count / counts.total() for identity, count in counts.most_common()}


def _made(
    method: type[Method],
    config: MethodConfig,
    networks: Networks,
    images: Mapping[str, Tensor],
    tables: Sequence[pa.Table],
) -> Method:
    """Return a method with the paintings: their patches as a library, or themselves as style images.

    In regions, each place of paintings is a library of its own.
    """
    resources = Resources(**networks.resources)
    if Need.INDEX not in method.needs:
        config = config.model_copy(update={"styles": tuple(sorted(images))})
        return method(config, replace(resources, styles=images))
    encoder = networks.encoder.network
    of_image = dict(zip(images, tables, strict=True))

    def indexed(ids: Iterable[str]) -> Index:
        library = pa.concat_tables([of_image[each] for each in ids])
        return index_for(method, library, encoder, cast("EncoderConfig", config.encoder))

    index: Index | Collection
    by_library: tuple[Mapping[str, Tensor], ...] = ()
    if region_choices(config):
        parts = tuple(indexed(group) for group in config.style_groups)
        index = Collection(parts, (1.0,) * len(parts), tuple(range(len(parts))))
        by_library = tuple({each: images[each] for each in group} for group in config.style_groups)
    else:
        index = indexed(images)
    return method(config, replace(resources, index=index, images=images, images_by_library=by_library))


def _layer(config: MethodConfig) -> Layer:
    return cast("EncoderConfig", config.encoder).layer


def _read(
    inputs: Sequence[Input], encoder: Encoder, config: MethodConfig, *, patches: bool
) -> tuple[dict[str, str], dict[str, Tensor], list[pa.Table]]:
    """Return the URI and the working image of each painting by image id, and with `patches` those of each."""
    if len(inputs) > MAX_PAINTINGS:
        raise UsageError(
            f"`try` takes up to {MAX_PAINTINGS} paintings, not {len(inputs)}; for more, extract a library and index it."
        )
    tables, names, images = [], {}, {}
    extraction = ExtractConfig(encoder=cast("EncoderConfig", config.encoder))
    stride = encoder.geometry(_layer(config)).stride
    for source in inputs:
        identity, painting = _read_image(source.uri, extraction.encoder.size)
        if identity not in names:
            names[identity] = source.uri
            images[identity] = to_tensor(pad_to(painting.pixels, stride))
            if patches:
                tables.append(image_patches(encoder, painting, identity, extraction))
    return names, images, tables


def index_for(method: type[Method], library: pa.Table, encoder: Encoder, config: EncoderConfig) -> Index:
    """Index a table of patches in memory, in the match space that suits a method."""
    space: MatchSpace = PAINTED_SPACE if method.levels else "raw"
    return index_in_memory(library, encoder.channels_at(config.layer), IndexConfig(match_space=space))


def index_in_memory(library: pa.Table, channels: int, config: IndexConfig) -> Index:
    """Index a table of patches in memory."""
    patches = patch_vectors(library, channels)
    packets = haar(torch.from_numpy(np.array(patches)).float()).half()
    return build_in_memory(packets, from_fixed_binary(library["patch_id"], "u1", (12,)), config)


def _read_image(uri: str, size: int, metadata: bool = False) -> tuple[str, WorkingImage]:
    """Return image id and working image. Raises RejectError, which names the file."""
    data = read_input(uri)
    try:
        working = decode(data, size)
        return image_id(data), replace(working, blocks=blocks_of(data)) if metadata else working
    except RejectError as error:
        raise RejectError(error.reason, f"'{uri}' cannot be used: {error.message}") from error
