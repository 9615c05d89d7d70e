"""Published methods with their own networks, from weight files in a folder: AdaIN, WCT, style-swap."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kt_batch.errors import MissingError, UsageError
from kt_batch.evaluation.style.contenders import Translate
from kt_batch.evaluation.style.pictures import StylePicture
from kt_batch.kernels.style_swap import style_swap
from kt_batch.kernels.whitening import whiten_and_colour
from kt_batch.methods.adain import adain, statistics
from kt_batch.methods.features import decode, encode
from kt_batch.models.encoder import Encoder
from kt_batch.models.weights import EncoderSource, load_decoder, load_encoder, load_style_swap

Transfer = Callable[[Tensor, Tensor], Tensor]  # features of photograph and painting -> transferred features


@dataclass(frozen=True)
class Recipe:
    """A published method: its files, the layer it works at, and its formula."""

    title: str
    encoder: str
    decoder: str
    layer: str
    transfer: Transfer


NORMALISED, CAFFE = "vgg19_normalised_relu4_1.safetensors", "vgg19_caffe_relu3_1.safetensors"
STYLE_SWAP = "decoder_styleswap_inverse_relu3_1.safetensors"
RECIPES = (
    Recipe(
        "AdaIN",
        NORMALISED,
        "decoder_adain_relu4_1.safetensors",
        "relu4_1",
        lambda features, style: adain(features, *statistics(style)),
    ),
    Recipe("WCT", NORMALISED, "decoder_wct_relu3_1.safetensors", "relu3_1", whiten_and_colour),
    Recipe("style-swap", CAFFE, STYLE_SWAP, "relu3_1", style_swap),
)


class Peer:
    """One published method, loaded."""

    kind = "peer"

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        """Load the networks.

        Raises:
            MissingError: a file is not in the folder.
            WeightsError: a file is damaged or of another network.
        """
        missing = [name for name in (recipe.encoder, recipe.decoder) if not (folder / name).is_file()]
        if missing:
            raise MissingError(f"'{folder}' holds no {' and no '.join(missing)}")
        self.name, self._recipe = recipe.title, recipe
        encoder = load_encoder(EncoderSource("vgg19", str(folder / recipe.encoder)))
        self._encoder: Encoder = encoder.network
        self._decode: Callable[[Tensor], Tensor]
        if recipe.decoder == STYLE_SWAP:
            inverse = load_style_swap(str(folder / recipe.decoder))
            self._decode = lambda features: inverse.decode(features[None])[0]
        else:
            decoder = load_decoder(encoder, "vgg19", recipe.layer, str(folder / recipe.decoder)).network
            self._decode = lambda features: decode(decoder, features)
        self.settings: Mapping[str, Any] = {
            "encoder": recipe.encoder, "decoder": recipe.decoder, "layer": recipe.layer,
        }  # fmt: skip

    def after(self, painting: StylePicture) -> Translate:
        """Return the method with the painting's features."""
        with torch.no_grad():
            style = encode(self._encoder, painting.image, self._recipe.layer)

        @torch.no_grad()
        def translate(photograph: StylePicture) -> Tensor:
            features = encode(self._encoder, photograph.image, self._recipe.layer)
            return self._decode(self._recipe.transfer(features, style))

        return translate


def load_peers(folder: Path) -> tuple[list[Peer], dict[str, str]]:
    """Return the peers whose files are in a folder, and for the others why they are absent.

    Raises:
        UsageError: there is no such folder.
        WeightsError: a file is damaged or of another network.
    """
    if not folder.is_dir():
        raise UsageError(f"--peer-weights '{folder}' is no folder; name one that holds {NORMALISED} and decoders.")
    peers, absent = [], {}
    for recipe in RECIPES:
        try:
            peers.append(Peer(recipe, folder))
        except MissingError as error:
            absent[recipe.title] = f"{error}."
    return peers, absent
