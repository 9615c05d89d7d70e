"""Resources of methods that look at the images of a library: those images, the key of an index, decoders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from kt_batch.config import Layer, ScaleKey
from kt_batch.errors import UsageError
from kt_batch.methods.base import Method, Need
from kt_batch.methods.features import to_tensor
from kt_batch.models.weights import LoadedDecoder, LoadedEncoder, load_decoder
from kt_batch.store.images.files import pad_to
from kt_batch.store.library import Library
from kt_batch.store.opening import open_library
from kt_batch.store.working import WorkingImages


class LibraryImages(Mapping[str, Tensor]):
    """The working images of a library by id, `(3, H, W)` float32 RGB in [0, 1], padded to the stride.

    An image is read when it is asked for; see `WorkingImages` for what it raises.
    """

    def __init__(self, library: str, stride: int) -> None:
        self._images = WorkingImages(open_library(library))
        self._stride = stride

    def __getitem__(self, image_id: str) -> Tensor:
        return to_tensor(pad_to(self._images[image_id], self._stride))

    def __iter__(self) -> Iterator[str]:
        return iter(self._images)

    def __len__(self) -> int:
        return len(self._images)


def painted_key(library: Library, method: type[Method]) -> ScaleKey:
    """Return the key of a library that a method searches: its layer at the scale of the images that are kept.

    Raises:
        UsageError: The library holds no such patches, or keeps no images.
    """
    key = ScaleKey(method.levels[0], library.config.encoder.size)
    if key not in library.config.keys or not library.config.keep_images:
        raise UsageError(
            f"'{library.location.uri}' has no patches of {key} with their images, which this method needs; make a "
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
    """Load the decoder that is shipped for each of some layers. Raises UsageError where there is none."""
    return {layer: load_decoder(encoder, name, layer, None) for layer in layers}
