"""The encoder of a configuration: a new one, or the one that a library was made with."""

from __future__ import annotations

from kt_batch.config import EncoderConfig
from kt_batch.errors import MismatchError, UsageError, WeightsError
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
    return loaded, encoder_config(source, loaded, layer, size)


def encoder_config(source: EncoderSource, loaded: LoadedEncoder, layer: str, size: int) -> EncoderConfig:
    """Describe a loaded encoder for a configuration, as `new_encoder` does. Raises UsageError and ValidationError."""
    check_cut(loaded, source, layer)
    fields = {"encoder": source.name, "weights_sha256": loaded.sha256, "layer": layer, "size": size}
    return EncoderConfig.model_validate(fields)


def check_cut(loaded: LoadedEncoder, source: EncoderSource, layer: str) -> None:
    """Raise UsageError when an encoder has no such layer."""
    if layer not in loaded.network.layers:
        cuts = ", ".join(cut for cut in loaded.network.layers if cut.startswith("relu") and cut.endswith("_1"))
        raise UsageError(f"The encoder '{source.name}' cannot be cut at {layer}; it has {cuts}.")


def library_encoder(library: Library, weights: str | None) -> tuple[EncoderSource, LoadedEncoder]:
    """Load the encoder that a library was made with.

    Args:
        library: The library.
        weights: A weight file; None takes the shipped or downloaded weights.

    Raises:
        MismatchError: These weights are not those of the library.
        WeightsError: They are not on this machine: a library starts no download.
    """
    wanted = library.config.encoder
    source = EncoderSource(wanted.encoder, weights, download=False)
    try:
        loaded = load_encoder(source)
    except (UsageError, WeightsError) as error:
        raise WeightsError(f"The encoder of '{library.location.uri}' cannot be loaded: {error}") from error
    if loaded.sha256 != wanted.weights_sha256:
        raise MismatchError(
            f"'{library.location.uri}' was made with encoder '{wanted.encoder}' {wanted.weights_sha256[:16]}, "
            f"these weights are {loaded.sha256[:16]}; give the right ones with --encoder-weights."
        )
    return source, loaded


def resized(config: EncoderConfig, size: int | None) -> EncoderConfig:
    """Return the configuration with another working size, or as it is for None."""
    return config if size is None else EncoderConfig.model_validate({**config.model_dump(), "size": size})
