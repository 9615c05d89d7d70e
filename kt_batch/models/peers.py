"""Decoders as other projects publish them: plain ladders with keys `conv1.weight`, `conv1.bias`, ...

Nothing in such a file says which encoder it was trained for; the number of channels is all that can be checked.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from kt_batch.models.decoder import Decoder

# The blocks of our Decoder that spell each peer's network; the convolutions stand in the order of their numbers.
PEERS = {
    "relu3_1": ("conv:128", "up", "conv:128", "conv:64", "up", "conv:64", "out"),  # WCT (Li et al. 2017)
    "relu4_1": (
        *("conv:256", "up", "conv:256", "conv:256", "conv:256", "conv:128"),
        *("up", "conv:128", "conv:64", "up", "conv:64", "out"),
    ),  # AdaIN (Huang & Belongie 2017)
}


def peer_decoder(tensors: Mapping[str, Tensor], layer: str) -> Decoder | None:
    """The peer's decoder for `layer`, or None when `tensors` are not that network's."""
    blocks = PEERS.get(layer)
    if blocks is None or "conv1.weight" not in tensors:
        return None
    decoder = Decoder(tensors["conv1.weight"].shape[1], blocks)
    numbers = [number for number, block in enumerate(blocks) if block != "up"]
    wanted = {
        f"block{number}.{part}": f"conv{order}.{part}"
        for order, number in enumerate(numbers, start=1)
        for part in ("weight", "bias")
    }
    if set(wanted.values()) != set(tensors):
        return None
    state = decoder.state_dict()
    if any(state[ours].shape != tensors[theirs].shape for ours, theirs in wanted.items()):
        return None
    decoder.load_state_dict({ours: tensors[theirs] for ours, theirs in wanted.items()})
    return decoder
