"""Published decoders of other projects: plain sequences with keys `conv1.weight`, `conv1.bias`, ...

Their files do not name the encoder they were trained for; only the number of channels can be checked.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from kt_batch.models.decoder import Decoder

# Each peer's network as blocks of Decoder; its convolutions are numbered in this order.
PEERS = {
    "relu3_1": ("conv:128", "up", "conv:128", "conv:64", "up", "conv:64", "out"),  # WCT (Li et al. 2017)
    "relu4_1": (
        *("conv:256", "up", "conv:256", "conv:256", "conv:256", "conv:128"),
        *("up", "conv:128", "conv:64", "up", "conv:64", "out"),
    ),  # AdaIN (Huang & Belongie 2017)
}


def peer_decoder(tensors: Mapping[str, Tensor], layer: str) -> Decoder | None:
    """Return the peer's decoder for `layer`; None if `tensors` are not of that network."""
    blocks = PEERS.get(layer)
    if blocks is None or "conv1.weight" not in tensors:
        return None
    if tensors["conv1.weight"].ndim != 4:
        return None
    with torch.device("meta"):  # without memory for its weights
        decoder = Decoder(tensors["conv1.weight"].shape[1], blocks)
    numbers = [number for number, block in enumerate(blocks) if block != "up"]
    names = {
        f"block{number}.{part}": f"conv{order}.{part}"
        for order, number in enumerate(numbers, start=1)
        for part in ("weight", "bias")
    }
    if set(names.values()) != set(tensors):
        return None
    state = decoder.state_dict()
    if any(state[own].shape != tensors[published].shape for own, published in names.items()):
        return None
    decoder.load_state_dict({own: tensors[published] for own, published in names.items()}, assign=True)
    return decoder
