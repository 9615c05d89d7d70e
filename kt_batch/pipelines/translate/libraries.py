"""Several libraries for one run: named by a caller, found to fit together, and told apart by workers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from itertools import zip_longest

from kt_batch.config import Draw, FurtherLibrary, MethodConfig, ScaleKey
from kt_batch.errors import DamagedError, MismatchError, UsageError
from kt_batch.methods.base import Method, Need
from kt_batch.pipelines.inputs import Place, places
from kt_batch.store.collections import WeightedPlace, weighted_places
from kt_batch.store.image_filters import ImageFilter, allowed_images
from kt_batch.store.indexes import find_index, read_index_summary
from kt_batch.store.library import Library
from kt_batch.store.opening import open_library
from kt_batch.store.statistics import find_statistics


def libraries_of(name: str, method: type[Method], given: Place | Sequence[Place] | None) -> tuple[WeightedPlace, ...]:
    """Return the libraries that a caller names for a method; a single one has no weight.

    Raises:
        UsageError: The method takes one library alone, or a name stands for none (`weighted_places`).
    """
    if given is None:
        return ()
    named = weighted_places(places(given))
    if len(named) > 1 and Need.INDEX not in method.needs:
        raise UsageError(
            f"The method {name} takes one library, and {len(named)} are named; join them with kt-batch merge."
        )
    return named if len(named) > 1 else tuple(WeightedPlace(each.place) for each in named)


def further_libraries(
    first: Library, index_digest: str, named: Sequence[WeightedPlace], indexes: Sequence[str] = ()
) -> dict[str, object]:
    """Return the fields of a configuration that name all libraries but the first one, and the weights.

    Args:
        first: The first library.
        index_digest: Its index.
        named: All libraries.
        indexes: Digests of the indexes of all but the first one; without them, those of their present state.

    Raises:
        MismatchError: A library has another encoder or layer than the first one, or no index that fits.
    """
    if len(named) < 2:
        return {}
    summary = read_index_summary(first.location, index_digest)
    if summary is None:
        raise DamagedError(f"The index {index_digest} of '{first.location.uri}' is gone.")
    key, further = summary.key(first), []
    for each, wanted in zip_longest(named[1:], indexes):
        library = open_library(each.place)
        _check_fits(first, library, key)
        index = find_index(library, wanted, key, summary.config.match_space)
        further.append(FurtherLibrary(index_digest=index.digest, weight=each.weight))
    return {"library_weight": named[0].weight, "further_libraries": tuple(further)}


def _check_fits(first: Library, other: Library, key: ScaleKey) -> None:
    both = f"'{first.location.uri}' and '{other.location.uri}'"
    if key not in other.config.keys:
        keys = ", ".join(map(str, other.config.keys))
        raise MismatchError(
            f"{both} cannot be searched together: the first is searched at {key}, the second has {keys}."
        )
    if first.config.encoder.weights_sha256 != other.config.encoder.weights_sha256:
        shown = [library.config.encoder.weights_sha256[:16] for library in (first, other)]
        raise MismatchError(
            f"{both} cannot be searched together: their encoders have the weights {' and '.join(shown)}."
        )


def filtered(
    name: str, method: type[Method], named: Sequence[WeightedPlace], chosen: ImageFilter
) -> tuple[tuple[bytes, ...], dict[str, object]]:
    """Return the images of each library that a filter allows, and the field of a configuration that names them.

    Raises:
        UsageError: The method takes no filter, or it allows no image (`allowed_images`).
    """
    if not chosen:
        return (), {}
    if not named or Need.PAIRS in method.needs:
        raise UsageError(f"The method {name} searches no images of a library here, so no filter of them has an effect.")
    allowed = allowed_images([open_library(each.place) for each in named], chosen)
    parts = (len(images).to_bytes(8, "big") + images for images in allowed)
    return allowed, {"allowed_sha256": hashlib.sha256(b"".join(parts)).hexdigest()}


def check_each_allowed(named: Sequence[WeightedPlace], allowed: Sequence[bytes]) -> None:
    """Raise UsageError where regions take a library of which a filter allows no image. allowed: As of `filtered`."""
    if not allowed:
        return
    if empty := [each for each, images in zip(named, allowed, strict=True) if not images]:
        raise UsageError(
            f"Regions take '{empty[0].place}', and the filter allows no image of it; allow some, or leave it out."
        )


def draws_of(
    name: str, method: type[Method], named: Sequence[WeightedPlace], styles: bool, draw: Draw | None, seed: int | None
) -> dict[str, object]:
    """Return the fields of a configuration that say how each photograph gets a single source.

    Raises:
        UsageError: The method has no single sources, or something that was given has no effect.
    """
    own = "seed" in method.config_type.model_fields
    if seed is not None and draw not in ("random", "round-robin") and not own:
        raise UsageError(f"--seed {seed} has no effect without --source random or round-robin.")
    if draw is None:
        return {}
    if Need.INDEX not in method.needs and not styles:
        wanted = "; give style images, --style" if Need.STYLES in method.needs else ""
        raise UsageError(f"The method {name} has no single sources here, so --source {draw} has no effect{wanted}.")
    if draw == "nearest" and Need.INDEX not in method.needs:
        raise UsageError("--source nearest compares photographs with the statistics of a library; it draws no style.")
    if weighted := [each for each in named if each.weight != 1]:
        raise UsageError(f"The weight of '{weighted[0].place}' has no effect with --source {draw}; leave it out.")
    return {"draw": draw, "draw_seed": seed or 0}


def check_statistics(named: Sequence[WeightedPlace], key: ScaleKey) -> None:
    """Raise MissingError unless every library has the statistics that `--source nearest` compares photographs with."""
    for each in named:
        find_statistics(open_library(each.place), key)


def index_digests(config: MethodConfig) -> tuple[str, ...]:
    """Return the index of each library of a run."""
    further = (each.index_digest for each in config.further_libraries)
    return () if config.index_digest is None else (config.index_digest, *further)


def library_weights(config: MethodConfig) -> tuple[float, ...]:
    """Return the weight of each library of a run."""
    return config.library_weight, *(each.weight for each in config.further_libraries)


def holder_of(images: object) -> Callable[[str], int] | None:
    """Return what tells which library holds an image, where images of several libraries are at hand."""
    return getattr(images, "number", None)
