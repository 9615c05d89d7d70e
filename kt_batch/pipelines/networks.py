"""The networks of this process: loaded once, and used by every job that needs the same weights.

A worker of a warm pool that gets a job with another library therefore loads nothing but its index.
"""

from __future__ import annotations

from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import torch

from kt_batch.events import log_event
from kt_batch.models.weights import EncoderSource, LoadedDecoder, LoadedEncoder, load_decoder, load_encoder

Network = TypeVar("Network", bound=torch.nn.Module)
KEPT = 8  # networks of each kind; an encoder of kt-vgg takes 3 MB, VGG-19 up to 80 MB

_State = tuple[int, int] | None  # of a weight file


def encoder_of(source: EncoderSource) -> LoadedEncoder:
    """Return an encoder, loaded unless this process has it from the same weights. Raises as `load_encoder` does."""
    return _encoder(source, _state(source.path))


def decoder_of(encoder: LoadedEncoder, name: str, layer: str, path: str | None) -> LoadedDecoder:
    """Return the decoder for a layer of an encoder of `encoder_of`, loaded unless this process has it.

    Args and errors are those of `load_decoder`.
    """
    return _decoder(encoder, name, layer, path, _state(path))


def placed(network: Network, device: torch.device) -> Network:
    """Return a network on a device: itself where it is there, else a copy, for other jobs of this process have it."""
    there = next(network.parameters()).device
    return network if there == device else deepcopy(network).to(device)


@lru_cache(KEPT)
def _encoder(source: EncoderSource, state: _State) -> LoadedEncoder:  # noqa: ARG001 - of another state, it is another
    log_event("network_loaded", of="encoder", network=source.name)
    return load_encoder(source)


@lru_cache(KEPT)
def _decoder(encoder: LoadedEncoder, name: str, layer: str, path: str | None, state: _State) -> LoadedDecoder:  # noqa: ARG001
    log_event("network_loaded", of="decoder", network=f"{name} {layer}")
    return load_decoder(encoder, name, layer, path)


def _state(path: str | None) -> _State:
    """Return size and time of a weight file, which tell whether it has changed; None for shipped weights."""
    if path is None:
        return None
    try:
        found = Path(path).stat()
    except OSError:
        return None  # loading says what is wrong
    return found.st_size, found.st_mtime_ns
