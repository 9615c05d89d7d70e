"""The resources of a method: chosen for a configuration, and loaded by a worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from hashlib import sha256

from pydantic import ValidationError

from kt_batch.config import (
    COMMON_SETTINGS,
    DEFAULT_SIZE,
    PAINTED_SPACE,
    Draw,
    EncoderConfig,
    Layer,
    MethodConfig,
    ScaleKey,
    describe_fault,
)
from kt_batch.errors import DamagedError, UsageError
from kt_batch.index.collection import collected
from kt_batch.index.index import Index
from kt_batch.index.restricted import index_of_images
from kt_batch.index.shards import read_shard
from kt_batch.index.tree import Tree
from kt_batch.index.validation import check_fit, check_summary
from kt_batch.methods.base import Method, Need, Resources
from kt_batch.methods.retouch.config import FitConfig
from kt_batch.methods.table import method_named, parse_config
from kt_batch.models.weights import EncoderSource, LoadedEncoder
from kt_batch.pipelines.encoders import library_encoder, new_encoder, resized
from kt_batch.pipelines.inputs import Place, absolute_file, find_images, places
from kt_batch.pipelines.networks import decoder_of, encoder_of
from kt_batch.pipelines.pairs.fit import load_fit
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.translate.large import larger_size
from kt_batch.pipelines.translate.libraries import (
    draws_of,
    filtered,
    further_libraries,
    index_digests,
    libraries_of,
    library_weights,
)
from kt_batch.pipelines.translate.library_images import (
    images_of,
    load_decoders,
    load_statistics,
    named_decoders,
    painted_key,
)
from kt_batch.pipelines.translate.mapped_index import check_shard, map_index
from kt_batch.pipelines.translate.placement import ON_PROCESSOR, Placement
from kt_batch.pipelines.translate.style_images import StyleImage, StyleImages, identify_styles
from kt_batch.store.cache import DEFAULT_BYTES, CachePlace
from kt_batch.store.collections import WeightedPlace
from kt_batch.store.image_filters import EVERY_IMAGE, ImageFilter
from kt_batch.store.indexes import IndexSummary, find_index, read_index_summary
from kt_batch.store.library import Library
from kt_batch.store.locations import Location, open_location
from kt_batch.store.opening import open_library, open_paired
from kt_batch.store.paired import find_fit, read_fit_summary
from kt_batch.store.passed_over import Kinds
from kt_batch.store.shard_files import ShardFiles, read_tree
from kt_batch.store.statistics import find_statistics, read_statistics_summary

IN_MEMORY_BYTES = 64 << 20  # every worker loads an index up to this size; a larger one is mapped, once a node


@dataclass(frozen=True)
class Sources:
    """The places from which a worker loads resources; None or empty for those that its method does not need.

    further: Libraries that are searched beside the first one. allowed: Ids of the images of each library that a filter
    allows, ascending, 8 bytes each; empty for all images.
    decoder: A file; None takes the decoder shipped with the encoder. cache: Where indexes from object storage are
    staged; None is the user's default folder, which each machine finds for itself. cache_bytes: Up to which they stay.
    passed_over: Libraries and runs below the folders of the style images. passed_over_files: Files there that are no
    images, by kind.
    """

    library: str | None = None
    further: tuple[str, ...] = ()
    allowed: tuple[bytes, ...] = ()
    encoder: EncoderSource | None = None
    decoder: str | None = None
    styles: tuple[StyleImage, ...] = ()
    cache: str | None = None
    cache_bytes: int = DEFAULT_BYTES
    passed_over: tuple[str, ...] = ()
    passed_over_files: Kinds = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """The resources that a caller chooses for a method, by name or place.

    library: A path or URI; or several, each also a pattern, or with `=` and a weight. index: A digest or the head of
    one, where a library has several. fit: The digest of a fit; None takes that of what a paired library holds now.
    statistics: The same of a library. only: The images of the libraries that may be used. draw: How each photograph
    gets a single source, with the seed; None gives it all of them. styles: Paths, globs or URIs.
    encoder: A name, for a method without a library. encoder_weights, decoder_weights: Files. layer: Where the encoder
    is cut, without a library; None takes the method's own. size: Long side of the working images; None takes that of
    the library, or 512. cache: A folder for indexes from object storage. cache_bytes: Up to which they stay.
    """

    library: Place | Sequence[Place] | None = None
    index: str | None = None
    fit: str | None = None
    statistics: str | None = None
    only: ImageFilter = EVERY_IMAGE
    draw: Draw | None = None
    seed: int | None = None
    styles: Place | Sequence[Place] = ()
    encoder: str | None = None
    encoder_weights: Place | None = None
    decoder_weights: Place | None = None
    layer: Layer | None = None
    size: int | None = None
    cache: Place | None = None
    cache_bytes: int = DEFAULT_BYTES


def choose(name: str, settings: Mapping[str, object], choice: Choice) -> tuple[MethodConfig, Sources]:
    """Return the configuration of a method, and where its workers find what it needs.

    Args:
        name: The method.
        settings: Values of the method's own fields and of COMMON_SETTINGS; the others keep their defaults.
        choice: Library, weights and style images.

    Raises:
        UsageError: The method lacks something that it needs, was given something that it does not use, or a setting is
            not allowed.
        MismatchError: The weights are not those of the library.
    """
    method = method_named(name)
    _check_settings(name, settings)
    _check_choice(name, method, choice)
    libraries = libraries_of(name, method, choice.library)
    sources, drawn = _searched(name, method, libraries, choice)
    content: dict[str, object] = {**settings, "method": name, **drawn}
    library, base = None, None
    if Need.PAIRS in method.needs:
        paired = open_paired(libraries[0].place)
        content["fit_digest"] = choice.fit or find_fit(paired, FitConfig().model_dump(mode="json")).digest
        content["size"] = paired.config.size
    elif libraries:
        library = open_library(libraries[0].place)
        named, key = _of_library(library, method, choice)
        content |= named | further_libraries(library, str(named.get("index_digest")), libraries)
        base = library.config.at(key)
    if Need.ENCODER in method.needs:
        source, encoder, config, larger = _choose_encoder(method, choice, library, base)
        sources, content["encoder"] = replace(sources, encoder=source), config
        content |= larger
        if Need.DECODER in method.needs:
            weights = absolute_file(choice.decoder_weights)
            content["decoder_sha256"] = decoder_of(encoder, source.name, config.layer, weights).sha256
            sources = replace(sources, decoder=weights)
        content |= named_decoders(encoder, source.name, method)
    elif choice.size is not None and Need.PAIRS not in method.needs:
        content["size"] = choice.size
    if choice.styles:
        sources = _with_styles(sources, choice.styles)
        content["styles"] = tuple(style.image_id for style in sources.styles)
    try:
        return parse_config(content), sources
    except ValidationError as error:
        raise UsageError(describe_fault(error)) from error


def _searched(
    name: str, method: type[Method], libraries: Sequence[WeightedPlace], choice: Choice
) -> tuple[Sources, dict[str, object]]:
    """Return where libraries are and which of their images count, and what a configuration says of these and of draws.

    Raises UsageError for what has no effect.
    """
    if choice.index is not None and len(libraries) > 1:
        raise UsageError(f"--index {choice.index} is for a single library; leave it out where several are searched.")
    allowed, which = filtered(name, method, libraries, choice.only)
    draw = draws_of(name, method, libraries, bool(choice.styles), choice.draw, choice.seed)
    sources = Sources(
        library=libraries[0].place if libraries else None,
        further=tuple(each.place for each in libraries[1:]),
        allowed=allowed,
        cache=absolute_file(choice.cache),
        cache_bytes=choice.cache_bytes,
    )
    return sources, which | draw


def _with_styles(sources: Sources, given: Place | Sequence[Place]) -> Sources:
    found = find_images(places(given), (), no_progress)
    styles = identify_styles(found.inputs)
    return replace(sources, styles=styles, passed_over=tuple(found.ours), passed_over_files=found.passed_over)


def _of_library(library: Library, method: type[Method], choice: Choice) -> tuple[dict[str, object], ScaleKey]:
    """Return what names the index and the statistics that a method needs, and their key.

    Without an index, the key is that of the chosen statistics, or the largest of the method's layer, or the base key.
    """
    named: dict[str, object] = {}
    key = max((key for key in library.config.keys if key.layer == method.layer), default=library.config.base)
    if Need.INDEX in method.needs:
        paints = Need.IMAGES in method.needs
        wanted = (painted_key(library, method), PAINTED_SPACE) if paints else (None, None)
        index = find_index(library, choice.index, *wanted)
        named["index_digest"], key = index.digest, index.key(library)
    if Need.STATISTICS in method.needs:
        chosen = choice.statistics
        summary = read_statistics_summary(library.location, chosen) if chosen else find_statistics(library, key)
        named["statistics_digest"], key = summary.digest, summary.key
    if key not in library.config.keys:
        raise DamagedError(f"What is made of '{library.location.uri}' is of {key}, and the library keeps no such key.")
    return named, key


def _check_settings(name: str, settings: Mapping[str, object]) -> None:
    """Raise UsageError for a setting that follows from the choice of resources."""
    if chosen := sorted(settings.keys() & (MethodConfig.model_fields.keys() - {"method", *COMMON_SETTINGS})):
        raise UsageError(f"{chosen[0]} is no setting of the method {name}: it follows from the chosen resources.")


def _check_choice(name: str, method: type[Method], choice: Choice) -> None:
    """Raise UsageError unless the choice has what the method needs, and nothing without effect."""
    either = {Need.STYLES, Need.STATISTICS} <= method.needs
    if either and (choice.library is None) == (not choice.styles):
        raise UsageError(f"The method {name} needs --style or --library, one of the two.")
    if Need.PAIRS in method.needs and choice.size is not None:
        raise UsageError(f"--size {choice.size} has no effect with {name}, which edits photographs at their own size.")
    library = next((need for need in (Need.PAIRS, Need.STATISTICS) if need in method.needs), Need.INDEX)
    required = ((library, "--library", choice.library is not None), (Need.STYLES, "--style", bool(choice.styles)))
    optional = (
        (Need.INDEX, "--index", choice.index is not None),
        (Need.ENCODER, "--encoder", choice.encoder is not None),
        (Need.ENCODER, "--encoder-weights", choice.encoder_weights is not None),
        (Need.ENCODER, "--layer", choice.layer is not None),
        (Need.DECODER, "--decoder-weights", choice.decoder_weights is not None),
    )
    for need, option, given in required:
        if need in method.needs and not given and not either:
            raise UsageError(f"The method {name} needs {option}.")
    for need, option, given in (*required, *optional):
        if given and need not in method.needs:
            raise UsageError(f"The method {name} does not use {option}; leave it out.")
    for option, value in (("--encoder", choice.encoder), ("--layer", choice.layer)):
        if choice.library is not None and value is not None:
            named = "', '".join(places(choice.library))
            raise UsageError(f"{option} {value} is for methods without a library; '{named}' has its own.")


def _choose_encoder(
    method: type[Method], choice: Choice, library: Library | None, indexed: EncoderConfig | None
) -> tuple[EncoderSource, LoadedEncoder, EncoderConfig, dict[str, object]]:
    """Return the library's encoder, cut where its index is, or the chosen one cut at the method's layer.

    The last value names a size above that of the library, for a method that enlarges its pictures.
    """
    weights = absolute_file(choice.encoder_weights)
    if library is not None and indexed is not None:
        source, encoder = library_encoder(library, weights)
        larger = larger_size(method, indexed, choice.size)
        return source, encoder, indexed if larger else resized(indexed, choice.size), larger
    chosen = EncoderSource(path=weights) if choice.encoder is None else EncoderSource(choice.encoder, weights)
    encoder, config = new_encoder(chosen, choice.layer or str(method.layer), choice.size or DEFAULT_SIZE)
    return chosen, encoder, config, {}


# ---- in a worker -----------------------------------------------------------------------------------------------------


def load_resources(config: MethodConfig, sources: Sources, placement: Placement = ON_PROCESSOR) -> Resources:
    """Load what the method of `config` needs to its devices. Style images are read when the method asks for them.

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
            decoder = decoder_of(encoder, name, config.encoder.layer, sources.decoder).network.to(device)
        if Need.DECODERS in needs:
            loaded = load_decoders(encoder, config.encoder.encoder, method_named(config.method).levels)
            decoders = {layer: each.network.to(device) for layer, each in loaded.items()}
    libraries, index = (sources.library or "", *sources.further), None
    if Need.INDEX in needs:
        indexes = map(placement.place, _load_indexes(config, sources, encoder))
        index = collected(list(indexes), library_weights(config))
    return Resources(
        encoder=encoder.network.to(device) if encoder else None,
        decoder=decoder,
        index=index,
        decoders=decoders,
        images=placement.images(images_of(libraries, stride, sources.allowed)) if Need.IMAGES in needs else None,
        styles=placement.images(StyleImages(sources.styles, config.working_size, stride)) if sources.styles else None,
        fit=load_fit(sources.library or "", config.fit_digest or "") if Need.PAIRS in needs else None,
        statistics=load_statistics(config, libraries[0], encoder, sources.allowed),
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
        return {style.image_id: style.uri for style in sources.styles}
    table = open_paired(sources.library or "").table(["before"])
    return dict(zip((value.hex() for value in table["image_id"].to_pylist()), table["before"].to_pylist(), strict=True))


def _load_indexes(config: MethodConfig, sources: Sources, encoder: LoadedEncoder | None) -> list[Index | None]:
    """Open the index of each library; None for one of whose allowed images it holds no patch."""
    if sources.library is None or config.index_digest is None:
        raise UsageError(f"The method {config.method} needs a library and its index.")
    cache, found = CachePlace(sources.cache, sources.cache_bytes), list[Index | None]()
    allowed = sources.allowed or (None,) * (len(sources.further) + 1)
    for place, digest, images in zip((sources.library, *sources.further), index_digests(config), allowed, strict=True):
        library = open_location(place)
        summary = read_index_summary(library, digest)
        if summary is None:
            raise DamagedError(f"The index {digest} of '{place}' is gone.")
        index = open_index(library, summary, cache)
        if encoder and config.encoder and index.channels != encoder.network.channels_at(config.encoder.layer):
            raise DamagedError(
                f"The index {digest} of '{place}' has {index.channels} channels, its encoder has "
                f"{encoder.network.channels_at(config.encoder.layer)} at {config.encoder.layer}."
            )
        found.append(index if images is None else index_of_images(index, images))
    return found


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
