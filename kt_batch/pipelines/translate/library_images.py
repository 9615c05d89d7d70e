"""Resources of methods that look at the images of a library: those images, the key of an index, decoders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from kt_batch.config import Layer, MethodConfig, ScaleKey
from kt_batch.errors import DamagedError, UsageError
from kt_batch.kernels.moments import MomentSums
from kt_batch.methods.base import LibraryStatistics, Method, Need
from kt_batch.methods.features import to_tensor
from kt_batch.models.weights import LoadedDecoder, LoadedEncoder, shipped
from kt_batch.pipelines.networks import decoder_of
from kt_batch.store.images.files import pad_to
from kt_batch.store.library import Library
from kt_batch.store.locations import Location, open_location
from kt_batch.store.opening import open_library
from kt_batch.store.statistics import (
    StatisticsSummary,
    image_counts,
    image_moments,
    read_statistics,
    read_statistics_summary,
)
from kt_batch.store.working import WorkingImages


class LibraryImages(Mapping[str, Tensor]):
    """The working images of a library by id, `(3, H, W)` float32 RGB in [0, 1], padded to the stride.

    An image is read when it is asked for; see `WorkingImages` for what it raises.
    """

    def __init__(self, library: str, stride: int, allowed: frozenset[str] | None = None) -> None:
        """Take a library, the stride, and the ids of the images that are there; None for all."""
        self._images = WorkingImages(open_library(library))
        self._stride = stride
        self._allowed = allowed

    def __getitem__(self, image_id: str) -> Tensor:
        if self._allowed is not None and image_id not in self._allowed:
            raise KeyError(image_id)
        return to_tensor(pad_to(self._images[image_id], self._stride))

    def __iter__(self) -> Iterator[str]:
        return (image for image in self._images if self._allowed is None or image in self._allowed)

    def __len__(self) -> int:
        return len(self._images) if self._allowed is None else sum(1 for _ in self)


class SeveralLibraryImages(Mapping[str, Tensor]):
    """The working images of several libraries by id. An image that several hold is read from the first of them."""

    def __init__(self, libraries: Sequence[LibraryImages]) -> None:
        self.libraries = libraries
        self._number: dict[str, int] = {}
        for number, images in reversed(list(enumerate(libraries))):
            self._number.update(dict.fromkeys(images, number))

    def number(self, image_id: str) -> int:
        """Return the number of the library that an image is read from. Raises KeyError for an unknown image."""
        return self._number[image_id]

    def __getitem__(self, image_id: str) -> Tensor:
        return self.libraries[self.number(image_id)][image_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._number)

    def __len__(self) -> int:
        return len(self._number)


def images_of(
    libraries: Sequence[str], stride: int, allowed: Sequence[bytes] = ()
) -> LibraryImages | SeveralLibraryImages:
    """Return the working images of one or several libraries; with `allowed`, those of each with these ids alone."""
    only = [frozenset(id_texts(ids)) for ids in allowed] if allowed else [None] * len(libraries)
    opened = [LibraryImages(library, stride, ids) for library, ids in zip(libraries, only, strict=True)]
    return opened[0] if len(opened) == 1 else SeveralLibraryImages(opened)


def images_by_library(images: LibraryImages | SeveralLibraryImages) -> Sequence[LibraryImages]:
    """Return the working images of each library."""
    return images.libraries if isinstance(images, SeveralLibraryImages) else (images,)


def id_texts(ids: bytes) -> list[str]:
    """Return concatenated image ids as 16 hex digits each."""
    return [ids[start : start + 8].hex() for start in range(0, len(ids), 8)]


def load_statistics(
    config: MethodConfig, place: str, encoder: LoadedEncoder | None, allowed: Sequence[bytes]
) -> LibraryStatistics | None:
    """Load the statistics that a configuration names, all of them or of the images that a filter allows.

    Raises:
        DamagedError: They are of another layer's channels.
        UsageError: They cover none of the images.
    """
    if config.statistics_digest is None:
        return None
    location = open_location(place)
    summary = read_statistics_summary(location, config.statistics_digest)
    if encoder and config.encoder and summary.channels != encoder.network.channels_at(config.encoder.layer):
        raise DamagedError(
            f"The statistics {summary.digest} of '{place}' have {summary.channels} channels, its encoder has "
            f"{encoder.network.channels_at(config.encoder.layer)} at {config.encoder.layer}."
        )
    if allowed:
        return allowed_statistics(location, summary, allowed[0])
    counts = image_counts(location, summary)
    return LibraryStatistics(
        read_statistics(location, summary), {image: count / summary.count for image, count in counts.items()}
    )


def allowed_statistics(library: Location, summary: StatisticsSummary, allowed: bytes) -> LibraryStatistics:
    """Return the statistics of some images of a library.

    Raises:
        UsageError: They cover none of the images.
    """
    wanted, total = frozenset(id_texts(allowed)), MomentSums(summary.channels)
    counts: dict[str, int] = {}
    for image, moments in image_moments(library, summary):
        if image in wanted:
            total.add(moments)
            counts[image] = moments.count
    if not counts:
        raise UsageError(f"The statistics {summary.digest} at '{library.uri}' cover no image that the filter allows.")
    shares = {image: count / total.count for image, count in sorted(counts.items())}
    return LibraryStatistics(total.total(), shares)


def painted_key(library: Library, method: type[Method]) -> ScaleKey:
    """Return the key of a library that a method searches: its first level at the scale of the images that are kept.

    Raises:
        UsageError: The library holds no such patches, or keeps no images.
    """
    key = library.config.painted
    if key is None:
        wanted = ScaleKey(method.levels[0], library.config.encoder.size)
        raise UsageError(
            f"'{library.location.uri}' has no patches of {wanted} with their images, which this method needs; make a "
            "library with kt-batch extract --preset painting."
        )
    return key


def named_decoders(encoder: LoadedEncoder, name: str, method: type[Method]) -> dict[str, object]:
    """Return the field of a configuration that names the decoders of a method's levels; none without levels."""
    if Need.DECODERS not in method.needs:
        return {}
    decoders = load_decoders(encoder, name, method.levels)
    return {"decoders_sha256": tuple(decoder.sha256 for decoder in decoders.values())}


def load_decoders(encoder: LoadedEncoder, name: str, layers: Sequence[Layer]) -> dict[Layer, LoadedDecoder]:
    """Load the decoder that is shipped for each of some layers. Raises UsageError where one is missing."""
    complete = [other for other, parts in shipped().items() if set(layers) <= parts.keys()]
    if name not in complete:
        raise UsageError(
            f"The encoder '{name}' has no decoders for {', '.join(layers)}, which this method needs; "
            f"{', '.join(complete)} has them."
        )
    return {layer: decoder_of(encoder, name, layer, None) for layer in layers}
