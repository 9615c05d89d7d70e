"""The encoder of a configuration: a new one, or the one that a library was made with."""

from __future__ import annotations

from kt_batch.config import EncoderConfig
from kt_batch.errors import MismatchError, UsageError, WeightsError
from kt_batch.models.vgg19 import is_downloaded
from kt_batch.models.weights import EncoderSource, LoadedEncoder, load_encoder
from kt_batch.store.library import Library


def new_encoder(source: EncoderSource, layer: str, size: int) -> tuple[LoadedEncoder, EncoderConfig]:
    """Load an encoder and describe it for a configuration.

    Args:
        source: Where the encoder comes from.
        layer: Where it is cut.
        size: Long side of the working image, in pixels.

    Raises:
        UsageError: The encoder has no such layer.
        ValidationError: The size is not allowed.
    """
    loaded = load_encoder(source)
    if layer not in loaded.network.layers:
        cuts = ", ".join(cut for cut in loaded.network.layers if cut.startswith("relu") and cut.endswith("_1"))
        raise UsageError(f"The encoder '{source.name}' cannot be cut at {layer}; it has {cuts}.")
    fields = {"encoder": source.name, "weights_sha256": loaded.sha256, "layer": layer, "size": size}
    return loaded, EncoderConfig.model_validate(fields)


def library_encoder(library: Library, weights: str | None) -> tuple[EncoderSource, LoadedEncoder]:
    """Load the encoder that a library was made with.

    Args:
        library: The library.
        weights: A weight file; None takes the shipped or downloaded weights.

    Raises:
        MismatchError: These weights are not those of the library.
    """
    wanted = library.config.encoder
    source = EncoderSource(wanted.encoder, weights)
    if wanted.encoder == "vgg19" and weights is None and not is_downloaded():
        raise WeightsError(
            f"'{library.location.uri}' was made with VGG-19 of torchvision, which is not on this machine and is not "
            "downloaded for a library; give a file with --encoder-weights, or run kt-batch try --encoder vgg19, which "
            "downloads it."
        )
    loaded = load_encoder(source)
    if loaded.sha256 != wanted.weights_sha256:
        raise MismatchError(
            f"'{library.location.uri}' was made with encoder '{wanted.encoder}' {wanted.weights_sha256[:16]}, "
            f"these weights are {loaded.sha256[:16]}; give the right ones with --encoder-weights."
        )
    return source, loaded


def resized(config: EncoderConfig, size: int | None) -> EncoderConfig:
    """Return the configuration with another working size, or as it is for None."""
    return config if size is None else EncoderConfig.model_validate({**config.model_dump(), "size": size})
