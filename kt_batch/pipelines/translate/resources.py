"""The resources of a method, loaded by a worker."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from hashlib import sha256
from typing import TypeVar

from kt_batch.config import (
    MethodConfig,
)
from kt_batch.errors import DamagedError, UsageError
from kt_batch.index.collection import Collection, collected
from kt_batch.index.index import Index
from kt_batch.index.restricted import index_of_images
from kt_batch.index.served.index import ServedIndex
from kt_batch.index.shards import read_shard
from kt_batch.index.tree import Tree
from kt_batch.index.validation import check_fit, check_summary
from kt_batch.methods.base import Need, Resources
from kt_batch.methods.table import method_named
from kt_batch.models.weights import EncoderSource, LoadedEncoder
from kt_batch.pipelines.networks import decoder_of, encoder_of, placed
from kt_batch.pipelines.pairs.fit import load_fit
from kt_batch.pipelines.translate.banks import load_banks
from kt_batch.pipelines.translate.libraries import (
    index_digests,
    library_weights,
)
from kt_batch.pipelines.translate.library_images import (
    images_by_library,
    images_of,
    load_decoders,
    load_statistics,
)
from kt_batch.pipelines.translate.mapped_index import check_shard, map_index
from kt_batch.pipelines.translate.placement import ON_PROCESSOR, Placement
from kt_batch.pipelines.translate.sources import Sources
from kt_batch.pipelines.translate.style_images import (
    StyleImages,
)
from kt_batch.store.cache import CachePlace
from kt_batch.store.indexes import IndexSummary, read_index_summary
from kt_batch.store.locations import Location, open_location
from kt_batch.store.opening import open_library, open_paired
from kt_batch.store.paired import read_fit_summary
from kt_batch.store.shard_files import ShardFiles, read_tree
from kt_batch.store.statistics import read_statistics_summary

AnyIndex = TypeVar("AnyIndex", bound=Index | ServedIndex)
IN_MEMORY_BYTES = 64 << 20  # every worker loads an index up to this size; a larger one is mapped, once a node


def load_resources(
    config: MethodConfig,
    sources: Sources,
    placement: Placement = ON_PROCESSOR,
    served: Mapping[int, Index | ServedIndex | None] | None = None,
) -> Resources:
    """Load what the method of `config` needs to its devices. Style images are read when the method asks for them.

    `served` takes the place of the indexes of libraries with these numbers; None of one without an allowed patch.

    Raises:
        KtBatchError: The index is gone or damaged, or a GPU has no room for it.
    """
    needs, device = method_named(config.method).needs, placement.device
    encoder = encoder_of(sources.encoder or EncoderSource()) if Need.ENCODER in needs else None
    decoder, decoders, stride = None, None, 1
    if encoder is not None and config.encoder is not None:
        stride = encoder.network.geometry(config.encoder.layer).stride
        if Need.DECODER in needs:
            name = sources.encoder.name if sources.encoder else config.encoder.encoder
            decoder = decoder_of(encoder, name, config.encoder.layer, sources.decoder).network
            decoder = placed(decoder, device)
        if Need.DECODERS in needs:
            loaded = load_decoders(encoder, config.encoder.encoder, method_named(config.method).levels)
            decoders = {layer: placed(each.network, device) for layer, each in loaded.items()}
    libraries = (sources.library or "", *sources.further)
    index: Index | Collection | ServedIndex | None = None
    if Need.INDEX in needs:
        indexes = _load_indexes(config, sources, placement, encoder, served or {})
        index = collected(indexes, library_weights(config))
    images = images_of(libraries, stride, sources.allowed) if Need.IMAGES in needs else None
    return Resources(
        encoder=placed(encoder.network, device) if encoder else None,
        decoder=decoder,
        index=index,
        decoders=decoders,
        images=None if images is None else placement.images(images),
        images_by_library=() if images is None else tuple(map(placement.images, images_by_library(images))),
        styles=placement.images(StyleImages(sources.styles, config.working_size, stride)) if sources.styles else None,
        fit=load_fit(sources.library or "", config.fit_digest or "") if Need.PAIRS in needs else None,
        statistics=load_statistics(config, libraries[0], encoder, sources.allowed),
        banks=load_banks(config, sources.banks, sources.network, device) if Need.BANKS in needs else None,
        device=device,
    )


def content_of_library(config: MethodConfig, sources: Sources) -> str:
    """Return 16 hex digits that name a library by its content, of the SHA-256 of its index's tree; empty without one.

    Equal images give equal trees, wherever they lie.
    """
    if sources.library is not None and config.fit_digest is not None:
        return read_fit_summary(open_location(sources.library), config.fit_digest).arrays_sha256[:16]
    if sources.library is not None and config.statistics_digest is not None:
        return read_statistics_summary(open_location(sources.library), config.statistics_digest).moments_sha256[:16]
    if sources.library is None or config.index_digest is None:
        return ""
    trees = [
        summary.tree_sha256
        for place, digest in zip((sources.library, *sources.further), index_digests(config), strict=True)
        if (summary := read_index_summary(open_location(place), digest))
    ]
    several = len(trees) > 1
    return sha256(" ".join(trees).encode()).hexdigest()[:16] if several else "".join(trees)[:16]


def source_uris(config: MethodConfig, sources: Sources) -> dict[str, str]:
    """Return where the sources of a method's outputs are, by id: images, or photographs before an edit."""
    if config.statistics_digest is not None:
        units = open_library(sources.library or "").committed.ledger.units()
        return {item.image_id: item.uri for unit in reversed(units) for item in reversed(unit.items)}
    if config.fit_digest is None:
        learned_from = {image: name for bank in sources.banks for image, name in bank.images}
        return learned_from | {style.image_id: style.uri for style in sources.styles}
    table = open_paired(sources.library or "").table(["before"])
    return dict(zip((value.hex() for value in table["image_id"].to_pylist()), table["before"].to_pylist(), strict=True))


def _load_indexes(
    config: MethodConfig,
    sources: Sources,
    placement: Placement,
    encoder: LoadedEncoder | None,
    served: Mapping[int, Index | ServedIndex | None],
) -> list[Index | ServedIndex | None]:
    """Open the index of each library; None for one of whose allowed images it holds no patch."""
    if sources.library is None or config.index_digest is None:
        raise UsageError(f"The method {config.method} needs a library and its index.")
    places, found = (sources.library, *sources.further), list[Index | ServedIndex | None]()
    allowed = sources.allowed or (None,) * len(places)
    for number, (place, digest, images) in enumerate(zip(places, index_digests(config), allowed, strict=True)):
        if number in served:
            owned = served[number]
            found.append(None if owned is None else _of_encoder(owned, config, place, encoder))
            continue
        library = open_location(place)
        summary = read_index_summary(library, digest)
        if summary is None:
            raise DamagedError(f"The index {digest} of '{place}' is gone.")
        index = open_index(library, summary, CachePlace(sources.cache, sources.cache_bytes))
        index = _of_encoder(index, config, place, encoder)
        found.append(placement.place(index if images is None else index_of_images(index, images)))
    return found


def _of_encoder(index: AnyIndex, config: MethodConfig, place: str, encoder: LoadedEncoder | None) -> AnyIndex:
    """Return an index. Raises DamagedError unless it has as many channels as the encoder, if there is one."""
    if encoder and config.encoder and index.channels != encoder.network.channels_at(config.encoder.layer):
        raise DamagedError(
            f"An index of '{place}' has {index.channels} channels, its encoder has "
            f"{encoder.network.channels_at(config.encoder.layer)} at {config.encoder.layer}."
        )
    return index


def open_index(library: Location, summary: IndexSummary, cache: CachePlace | None = None) -> Index:
    """Open an index for searching, and check that its parts are whole and fit together.

    A small index is read into memory. A larger one is mapped, from the library itself or from copies that are staged in
    the cache (`mapped_index`).
    """
    if sum(shard.bytes for shard in summary.shards) > IN_MEMORY_BYTES:
        return map_index(library, summary, cache or CachePlace())
    name = f"{summary.digest} of '{library.uri}'"
    tree = Tree.from_bytes(read_tree(library, summary))
    check_summary(tree, summary.channels, summary.leaves, name)
    with closing(ShardFiles(library, cache or CachePlace(), check_shard)) as files:
        shards = [read_shard(files.read(shard), files.name(shard)) for shard in summary.shards]
    check_fit(tree, shards, name)
    return Index(tree, shards).in_one_piece()
