"""The resources that a caller chooses for a method, and the configuration that follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

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
from kt_batch.methods.base import Method, Need
from kt_batch.methods.retouch.config import FitConfig
from kt_batch.methods.table import advised, method_named, parse_config
from kt_batch.models.weights import EncoderSource, LoadedEncoder
from kt_batch.pipelines.encoders import library_encoder, new_encoder, resized
from kt_batch.pipelines.inputs import Place, absolute_file, find_images, places
from kt_batch.pipelines.networks import decoder_of
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.translate.banks import BankFile, chosen_banks
from kt_batch.pipelines.translate.large import larger_size
from kt_batch.pipelines.translate.libraries import (
    check_each_allowed,
    check_statistics,
    draws_of,
    filtered,
    further_libraries,
    libraries_of,
)
from kt_batch.pipelines.translate.library_images import (
    named_decoders,
    painted_key,
)
from kt_batch.pipelines.translate.masks import Masks, check_regions, one_each, regions_of
from kt_batch.pipelines.translate.style_images import (
    StyleImage,
    identify_styles,
    mixed,
    style_places,
)
from kt_batch.store.cache import DEFAULT_BYTES
from kt_batch.store.collections import WeightedPlace
from kt_batch.store.image_filters import EVERY_IMAGE, ImageFilter
from kt_batch.store.indexes import find_index
from kt_batch.store.library import Library
from kt_batch.store.locations import absolute_place
from kt_batch.store.opening import open_library, open_paired
from kt_batch.store.paired import find_fit
from kt_batch.store.passed_over import Kinds
from kt_batch.store.statistics import find_statistics, read_statistics_summary


@dataclass(frozen=True)
class Sources:
    """The places from which a worker loads resources; None or empty for those that its method does not need.

    further: Libraries that are searched beside the first one. allowed: Ids of the images of each library that a filter
    allows, ascending, 8 bytes each; empty for all images.
    decoder: A file; None takes the decoder shipped with the encoder. cache: Where indexes from object storage are
    staged; None is the user's default folder, which each machine finds for itself. cache_bytes: Up to which they stay.
    passed_over: Libraries and runs below the folders of the style images. passed_over_files: Files there that are no
    images, by kind. banks: The files of filter banks, as the configuration orders them. network: Theirs.
    """

    library: str | None = None
    further: tuple[str, ...] = ()
    allowed: tuple[bytes, ...] = ()
    encoder: EncoderSource | None = None
    decoder: str | None = None
    styles: tuple[StyleImage, ...] = ()
    masks: Masks | None = None
    cache: str | None = None
    cache_bytes: int = DEFAULT_BYTES
    passed_over: tuple[str, ...] = ()
    passed_over_files: Kinds = field(default_factory=dict)
    banks: tuple[BankFile, ...] = ()
    network: str | None = None

    @property
    def named_files(self) -> dict[str, object]:
        """Return where label images and filter banks are, by the keys of `run.json`."""
        masks: dict[str, object] = {"masks": absolute_place(self.masks.place)} if self.masks else {}
        banks = {"banks": [bank.path for bank in self.banks], "network": self.network} if self.banks else {}
        return masks | banks


@dataclass(frozen=True)
class Choice:
    """The resources that a caller chooses for a method, by name or place.

    library: A path or URI; or several, each also a pattern, or with `=` and a weight. index: A digest or the head of
    one, where a library has several; a sequence has one for each library. fit: The digest of a fit; None takes that of
    what a paired library holds now. statistics: The same of a library. only: The images of the libraries that may be
    used. draw: How each photograph gets a single source, with the seed; None gives it all of them. styles: Paths,
    globs or URIs, each also with `=` and a weight. mask: A place of label images. regions: How many regions of like
    features have styles of their own. banks: Files of filter banks, each also with `=` and a weight. network: The file
    of their network, where it is not beside the first of them. encoder: A name, for a method without a library.
    encoder_weights, decoder_weights: Files. layer: Where the encoder is cut, without a library; None takes the method's
    own. size: Long side of the working images; None takes that of the library, or 512. cache: A folder for indexes from
    object storage. cache_bytes: Up to which they stay.
    """

    library: Place | Sequence[Place] | None = None
    index: str | Sequence[str] | None = None
    fit: str | None = None
    statistics: str | None = None
    only: ImageFilter = EVERY_IMAGE
    draw: Draw | None = None
    seed: int | None = None
    styles: Place | Sequence[Place] = ()
    mask: Place | None = None
    regions: int | None = None
    encoder: str | None = None
    encoder_weights: Place | None = None
    decoder_weights: Place | None = None
    layer: Layer | None = None
    size: int | None = None
    cache: Place | None = None
    cache_bytes: int = DEFAULT_BYTES
    banks: Sequence[Place] = ()
    network: Place | None = None


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
    method, choice = method_named(name), replace(choice, library=choice.library or None)
    _check_settings(name, settings)
    _check_choice(name, method, choice)
    libraries = libraries_of(name, method, choice.library)
    masks, regions = regions_of(choice.mask, choice.regions)
    sources, drawn = _searched(name, method, libraries, choice)
    sources = replace(sources, masks=masks)
    content: dict[str, object] = {**advised(method), **settings, "method": name, **drawn, **regions}
    library, base = None, None
    if Need.PAIRS in method.needs:
        content |= _of_pairs(libraries[0].place, choice.fit)
    elif libraries:
        one_each(regions, "--library", any(each.weight != 1 for each in libraries), choice.draw)
        library = open_library(libraries[0].place)
        named, key = _of_library(library, method, choice)
        content |= named | further_libraries(library, str(named.get("index_digest")), libraries, _indexes(choice)[1:])
        if choice.draw == "nearest":
            check_statistics(libraries, key)
        base = library.config.at(key)
    if Need.ENCODER in method.needs:
        source, encoder, config, larger = _choose_encoder(method, choice, library, base)
        sources, content["encoder"] = replace(sources, encoder=source), config
        content |= larger
        sources, decoders = _with_decoders(sources, method, encoder, (source.name, config.layer, choice))
        content |= decoders
    elif choice.size is not None and Need.PAIRS not in method.needs:
        content["size"] = choice.size
    if Need.BANKS in method.needs:
        files, network, shares = chosen_banks(places(choice.banks), absolute_file(choice.network), regions)
        sources, content = replace(sources, banks=files, network=network), content | shares
    if choice.styles:
        sources, named_mix = _with_styles(sources, method, choice, regions)
        content |= named_mix
    try:
        return parse_config(content), sources
    except ValidationError as error:
        raise UsageError(describe_fault(error)) from error


def _with_decoders(
    sources: Sources, method: type[Method], encoder: LoadedEncoder, of: tuple[str, Layer, Choice]
) -> tuple[Sources, dict[str, object]]:
    """Return the sources with a decoder's file, and the fields of a configuration that name the decoders.

    of: The name of the encoder, the layer where it is cut, and what the caller chooses.
    """
    name, layer, choice = of
    named = named_decoders(encoder, name, method)
    if Need.DECODER not in method.needs:
        return sources, named
    file = absolute_file(choice.decoder_weights)
    sha256 = decoder_of(encoder, name, layer, file).sha256
    return replace(sources, decoder=file), {**named, "decoder_sha256": sha256}


def _searched(
    name: str, method: type[Method], libraries: Sequence[WeightedPlace], choice: Choice
) -> tuple[Sources, dict[str, object]]:
    """Return where libraries are and which of their images count, and what a configuration says of these and of draws.

    Raises UsageError for what has no effect.
    """
    if isinstance(choice.index, str) and len(libraries) > 1:
        raise UsageError(f"--index {choice.index} is for a single library; leave it out where several are searched.")
    if choice.index is not None and len(_indexes(choice)) != len(libraries):
        raise UsageError(f"{len(_indexes(choice))} indexes are named for {len(libraries)} libraries; name one of each.")
    allowed, which = filtered(name, method, libraries, choice.only)
    if choice.mask is not None or choice.regions is not None:
        check_each_allowed(libraries, allowed)
    draw = draws_of(name, method, libraries, bool(choice.styles), choice.draw, choice.seed)
    sources = Sources(
        library=libraries[0].place if libraries else None,
        further=tuple(each.place for each in libraries[1:]),
        allowed=allowed,
        cache=absolute_file(choice.cache),
        cache_bytes=choice.cache_bytes,
    )
    return sources, which | draw


def _indexes(choice: Choice) -> Sequence[str]:
    return (choice.index,) if isinstance(choice.index, str) else choice.index or ()


def _with_styles(
    sources: Sources, method: type[Method], choice: Choice, regions: Mapping[str, object]
) -> tuple[Sources, dict[str, object]]:
    """Return the sources with the style images, and the fields of a configuration that name and mix these."""
    given = style_places(places(choice.styles))
    found = find_images(given.places, (), no_progress)
    named = mixed(method, given, found, regions, choice.draw)
    styles = identify_styles(found.inputs)
    named["styles"] = tuple(style.image_id for style in styles)
    sources = replace(sources, passed_over=tuple(found.ours), passed_over_files=found.passed_over)
    return replace(sources, styles=styles), named


def _of_library(library: Library, method: type[Method], choice: Choice) -> tuple[dict[str, object], ScaleKey]:
    """Return what names the index and the statistics that a method needs, and their key.

    Without an index, the key is that of the chosen statistics, or the largest of the method's layer, or the base key.
    """
    named: dict[str, object] = {}
    key = max((key for key in library.config.keys if key.layer == method.layer), default=library.config.base)
    if Need.INDEX in method.needs:
        paints = Need.IMAGES in method.needs
        wanted = (painted_key(library, method), PAINTED_SPACE) if paints else (None, None)
        index = find_index(library, next(iter(_indexes(choice)), None), *wanted)
        named["index_digest"], key = index.digest, index.key(library)
    if Need.STATISTICS in method.needs:
        chosen = choice.statistics
        summary = read_statistics_summary(library.location, chosen) if chosen else find_statistics(library, key)
        named["statistics_digest"], key = summary.digest, summary.key
    if key not in library.config.keys:
        raise DamagedError(f"What is made of '{library.location.uri}' is of {key}, and the library keeps no such key.")
    return named, key


def _of_pairs(place: str, fit: str | None) -> dict[str, object]:
    """Return what names the fit of a paired library, and the size of its photographs."""
    paired = open_paired(place)
    digest = fit or find_fit(paired, FitConfig().model_dump(mode="json")).digest
    return {"fit_digest": digest, "size": paired.config.size}


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
    required = (
        (library, "--library", choice.library is not None),
        (Need.STYLES, "--style", bool(choice.styles)),
        (Need.BANKS, "--bank", bool(choice.banks)),
    )
    optional = (
        (Need.INDEX, "--index", choice.index is not None),
        (Need.ENCODER, "--encoder", choice.encoder is not None),
        (Need.ENCODER, "--encoder-weights", choice.encoder_weights is not None),
        (Need.ENCODER, "--layer", choice.layer is not None),
        (Need.DECODER, "--decoder-weights", choice.decoder_weights is not None),
        (Need.BANKS, "--network", choice.network is not None),
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
    searched = Need.INDEX in method.needs and choice.library is not None
    check_regions(name, choice.mask, choice.regions, bool(choice.styles or choice.banks or searched))


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
