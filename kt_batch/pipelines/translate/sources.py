"""The resources of a method: chosen for a configuration, and loaded by a worker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

from pydantic import ValidationError
from torch import Tensor

from kt_batch.config import (
    COMMON_SETTINGS,
    DEFAULT_SIZE,
    PAINTED_SPACE,
    SMALLEST_SIZE,
    EncoderConfig,
    Layer,
    MethodConfig,
    ScaleKey,
    describe_fault,
)
from kt_batch.errors import DamagedError, MismatchError, RejectError, UsageError
from kt_batch.index.index import Index
from kt_batch.index.shards import read_shard
from kt_batch.index.tree import Tree
from kt_batch.index.validation import check_fit, check_summary
from kt_batch.methods.base import LibraryStatistics, Method, Need, Resources
from kt_batch.methods.features import to_tensor
from kt_batch.methods.retouch.config import FitConfig
from kt_batch.methods.table import method_named, parse_config
from kt_batch.models.weights import EncoderSource, LoadedEncoder, load_decoder, load_encoder
from kt_batch.pipelines.encoders import library_encoder, new_encoder, resized
from kt_batch.pipelines.inputs import Place, absolute_file, find_images, places
from kt_batch.pipelines.pairs.fit import load_fit
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.translate.large import larger_size
from kt_batch.pipelines.translate.library_images import LibraryImages, load_decoders, named_decoders, painted_key
from kt_batch.pipelines.translate.mapped_index import check_shard, map_index
from kt_batch.pipelines.translate.placement import ON_PROCESSOR, Placement
from kt_batch.store.cache import DEFAULT_BYTES, CachePlace
from kt_batch.store.images.files import WorkingImage, decode, image_id, pad_to
from kt_batch.store.indexes import IndexSummary, find_index, read_index_summary
from kt_batch.store.inputs import Input, read_input
from kt_batch.store.library import Library
from kt_batch.store.locations import Location, absolute_place, open_location
from kt_batch.store.opening import open_library, open_paired
from kt_batch.store.paired import find_fit, read_fit_summary
from kt_batch.store.passed_over import Kinds
from kt_batch.store.shard_files import ShardFiles, read_tree
from kt_batch.store.statistics import find_statistics, image_counts, read_statistics, read_statistics_summary

IN_MEMORY_BYTES = 64 << 20  # every worker loads an index up to this size; a larger one is mapped, once a node


@dataclass(frozen=True)
class StyleImage:
    """A style image: 16 hex digits, and where its file is."""

    image_id: str
    uri: str


@dataclass(frozen=True)
class Sources:
    """The places from which a worker loads resources; None or empty for those that its method does not need.

    decoder: A file; None takes the decoder shipped with the encoder. cache: Where indexes from object storage are
    staged; None is the user's default folder, which each machine finds for itself. cache_bytes: Up to which they stay.
    passed_over: Libraries and runs below the folders of the style images. passed_over_files: Files there that are no
    images, by kind.
    """

    library: str | None = None
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

    library: A path or URI. index: A digest or the head of one, where a library has several. fit: The digest of
    a fit; None takes that of what a paired library holds now. statistics: The same of a library. styles: Paths, globs
    or URIs. encoder: A name, for a method without a library. encoder_weights, decoder_weights: Files. layer: Where the
    encoder is cut, without a library; None takes the method's own. size: Long side of the working images; None takes
    that of the library, or 512. cache: A folder for indexes from object storage. cache_bytes: Up to which they stay.
    """

    library: Place | None = None
    index: str | None = None
    fit: str | None = None
    statistics: str | None = None
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
    content: dict[str, object] = {**settings, "method": name}
    sources = Sources(cache=absolute_file(choice.cache), cache_bytes=choice.cache_bytes)
    library, base = None, None
    if Need.PAIRS in method.needs:
        paired = open_paired(str(choice.library))
        sources = replace(sources, library=absolute_place(str(choice.library)))
        content["fit_digest"] = choice.fit or find_fit(paired, FitConfig().model_dump(mode="json")).digest
        content["size"] = paired.config.size
    elif choice.library is not None:
        library = open_library(str(choice.library))
        sources = replace(sources, library=absolute_place(str(choice.library)))
        named, key = _of_library(library, method, choice)
        content |= named
        base = library.config.at(key)
    if Need.ENCODER in method.needs:
        source, encoder, config, larger = _choose_encoder(method, choice, library, base)
        sources, content["encoder"] = replace(sources, encoder=source), config
        content |= larger
        if Need.DECODER in method.needs:
            weights = absolute_file(choice.decoder_weights)
            content["decoder_sha256"] = load_decoder(encoder, source.name, config.layer, weights).sha256
            sources = replace(sources, decoder=weights)
        content |= named_decoders(encoder, source.name, method)
    elif choice.size is not None and Need.PAIRS not in method.needs:
        content["size"] = choice.size
    if choice.styles:
        found = find_images(places(choice.styles), (), no_progress)
        styles = _identify_styles(found.inputs)
        sources = replace(sources, styles=styles, passed_over=tuple(found.ours), passed_over_files=found.passed_over)
        content["styles"] = tuple(style.image_id for style in styles)
    try:
        return parse_config(content), sources
    except ValidationError as error:
        raise UsageError(describe_fault(error)) from error


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
            raise UsageError(f"{option} {value} is for methods without a library; '{choice.library}' has its own.")


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


def _identify_styles(inputs: Sequence[Input]) -> tuple[StyleImage, ...]:
    """Return the style images by ascending image id; equal images count once.

    Raises RejectError when one cannot be used.
    """
    styles = {}
    for source in reversed(inputs):
        data = read_input(source.uri)
        _decode_style(source.uri, data, SMALLEST_SIZE)
        styles[image_id(data)] = source.uri
    return tuple(StyleImage(identity, uri) for identity, uri in sorted(styles.items()))


def _decode_style(uri: str, data: bytes, size: int) -> WorkingImage:
    try:
        return decode(data, size)
    except RejectError as error:
        raise RejectError(error.reason, f"The style image '{uri}' cannot be used: {error.message}") from error


# ---- in a worker -----------------------------------------------------------------------------------------------------


def load_resources(config: MethodConfig, sources: Sources, placement: Placement = ON_PROCESSOR) -> Resources:
    """Load what the method of `config` needs to its devices. Style images are read when the method asks for them.

    Raises:
        KtBatchError: The index is gone or damaged, or a GPU has no room for it.
    """
    needs, device = method_named(config.method).needs, placement.device
    encoder = load_encoder(sources.encoder or EncoderSource()) if Need.ENCODER in needs else None
    decoder, decoders, stride = None, None, 1
    if encoder is not None and config.encoder is not None:
        stride = encoder.network.geometry(config.encoder.layer).stride
        if Need.DECODER in needs:
            name = sources.encoder.name if sources.encoder else config.encoder.encoder
            decoder = load_decoder(encoder, name, config.encoder.layer, sources.decoder).network.to(device)
        if Need.DECODERS in needs:
            loaded = load_decoders(encoder, config.encoder.encoder, method_named(config.method).levels)
            decoders = {layer: each.network.to(device) for layer, each in loaded.items()}
    index = placement.place(_load_index(config, sources)) if Need.INDEX in needs else None
    if index and encoder and config.encoder and index.channels != encoder.network.channels_at(config.encoder.layer):
        raise DamagedError(
            f"The index {config.index_digest} of '{sources.library}' has {index.channels} channels, its encoder has "
            f"{encoder.network.channels_at(config.encoder.layer)} at {config.encoder.layer}."
        )
    return Resources(
        encoder=encoder.network.to(device) if encoder else None,
        decoder=decoder,
        index=index,
        decoders=decoders,
        images=placement.images(LibraryImages(sources.library or "", stride)) if Need.IMAGES in needs else None,
        styles=placement.images(StyleImages(sources.styles, config.working_size, stride)) if sources.styles else None,
        fit=load_fit(sources.library or "", config.fit_digest or "") if Need.PAIRS in needs else None,
        statistics=_load_statistics(config, sources, encoder) if config.statistics_digest else None,
        device=device,
    )


def _load_statistics(config: MethodConfig, sources: Sources, encoder: LoadedEncoder | None) -> LibraryStatistics:
    """Load the statistics that a configuration names. Raises DamagedError when they are of another layer's channels."""
    location = open_location(sources.library or "")
    summary = read_statistics_summary(location, config.statistics_digest or "")
    if encoder and config.encoder and summary.channels != encoder.network.channels_at(config.encoder.layer):
        raise DamagedError(
            f"The statistics {summary.digest} of '{sources.library}' have {summary.channels} channels, its encoder has "
            f"{encoder.network.channels_at(config.encoder.layer)} at {config.encoder.layer}."
        )
    counts = image_counts(location, summary)
    return LibraryStatistics(
        read_statistics(location, summary), {image: count / summary.count for image, count in counts.items()}
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
    summary = read_index_summary(open_location(sources.library), config.index_digest)
    return summary.tree_sha256[:16] if summary else ""


def source_uris(config: MethodConfig, sources: Sources) -> dict[str, str]:
    """Return where the sources of a method's outputs are, by id: images, or photographs before an edit."""
    if config.statistics_digest is not None:
        units = open_library(sources.library or "").committed.ledger.units()
        return {item.image_id: item.uri for unit in reversed(units) for item in reversed(unit.items)}
    if config.fit_digest is None:
        return {style.image_id: style.uri for style in sources.styles}
    table = open_paired(sources.library or "").table(["before"])
    return dict(zip((value.hex() for value in table["image_id"].to_pylist()), table["before"].to_pylist(), strict=True))


class StyleImages(Mapping[str, Tensor]):
    """Style images by id; each is read when it is asked for, so that memory does not grow with their number.

    Raises, for an image that is asked for:
        RejectError: It cannot be used.
        MismatchError: It is not the image that was chosen.
    """

    def __init__(self, styles: Sequence[StyleImage], size: int, stride: int) -> None:
        self._styles = {style.image_id: style for style in styles}
        self._size = size
        self._stride = stride

    def __getitem__(self, image_id: str) -> Tensor:
        return _load_style(self._styles[image_id], self._size, self._stride)

    def __iter__(self) -> Iterator[str]:
        return iter(self._styles)

    def __len__(self) -> int:
        return len(self._styles)


def _load_style(style: StyleImage, size: int, stride: int) -> Tensor:
    data = read_input(style.uri)
    if image_id(data) != style.image_id:
        raise MismatchError(f"The style image '{style.uri}' has changed since the run was planned.")
    return to_tensor(pad_to(_decode_style(style.uri, data, size).pixels, stride))


def _load_index(config: MethodConfig, sources: Sources) -> Index:
    if sources.library is None or config.index_digest is None:
        raise UsageError(f"The method {config.method} needs a library and its index.")
    library = open_location(sources.library)
    summary = read_index_summary(library, config.index_digest)
    if summary is None:
        raise DamagedError(f"The index {config.index_digest} of '{sources.library}' is gone.")
    return open_index(library, summary, CachePlace(sources.cache, sources.cache_bytes))


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
