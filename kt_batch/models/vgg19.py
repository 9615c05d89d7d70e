"""VGG-19 from torchvision, or from a file with torchvision's key names (`features.0.weight`, ...)."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import cast

import torch
from torch import Tensor

from kt_batch.errors import DamagedError, WeightsError
from kt_batch.models.encoder import Encoder, Preprocess
from kt_batch.models.layers import CUT_POINTS, VGG19_LAYERS, kind, layers_up_to
from kt_batch.store.regular import open_regular

# Index of each convolution in torchvision's `vgg19().features`.
FEATURES = {
    "conv1_1": 0, "conv1_2": 2, "conv2_1": 5, "conv2_2": 7, "conv3_1": 10,
    "conv3_2": 12, "conv3_3": 14, "conv3_4": 16, "conv4_1": 19,
}  # fmt: skip
TORCHVISION_URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
TORCHVISION_SHA256 = "dcbb9e9d"  # its beginning, which the name of the file gives
TORCHVISION = Preprocess("rgb", 1.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CAFFE = Preprocess("bgr", 255.0, (103.939, 116.779, 123.68), (1.0, 1.0, 1.0))


def vgg19_from_state(state: Mapping[str, Tensor], metadata: Mapping[str, str], where: str) -> Encoder:
    """Return VGG-19 up to the deepest cut that `state` has weights for.

    Args:
        state: Tensors by torchvision's names.
        metadata: `preprocess` (`caffe...`: BGR * 255 - mean; otherwise torchvision's) and `padding` (`reflection...`;
            otherwise zeros), both optional.
        where: Name of the source in error messages.

    Raises:
        WeightsError: If conv1_1 is missing or a shape is wrong.
    """
    complete = [
        name
        for name, number in FEATURES.items()
        if {f"features.{number}.weight", f"features.{number}.bias"} <= set(state)
    ]
    reached = [cut for cut in CUT_POINTS if set(_convolutions(layers_up_to(VGG19_LAYERS, cut))) <= set(complete)]
    if not reached:
        raise WeightsError(f"'{where}' holds no VGG-19: it lacks 'features.0.weight' or 'features.0.bias'.")
    layers = layers_up_to(VGG19_LAYERS, reached[-1])
    widths = {name: (state[f"features.{FEATURES[name]}.weight"].shape[0],) for name in _convolutions(layers)}
    preprocess = CAFFE if metadata.get("preprocess", "").startswith("caffe") else TORCHVISION
    padding = "reflect" if metadata.get("padding", "").startswith("reflection") else "zeros"
    with torch.device("meta"):  # without memory for its weights
        encoder = Encoder(layers, widths, preprocess, padding)
    weights = {
        f"{name}.0.{part}": state[f"features.{FEATURES[name]}.{part}"] for name in widths for part in ("weight", "bias")
    }
    try:
        encoder.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise WeightsError(f"'{where}' does not fit VGG-19: {str(error).splitlines()[-1].strip()}") from error
    return encoder


def vgg19_from_torchvision(*, download: bool = True) -> tuple[Encoder, dict[str, Tensor]]:
    """Return torchvision's VGG-19 (IMAGENET1K_V1) and its state dict up to relu4_1.

    The file is the one that torchvision keeps. Its hash is compared first, and its pickle may hold tensors alone.

    Args:
        download: Download it when it is not on this machine.

    Raises:
        WeightsError: The file is not on this machine and cannot or must not be downloaded, or is another file.
    """
    kept = Path(torch.hub.get_dir(), "checkpoints", PurePosixPath(TORCHVISION_URL).name)
    if kept.exists():
        _check_hash(kept)
    elif not download:
        raise WeightsError(
            "the weights of VGG-19 are not on this machine, and no file may start their download; give them with "
            "--encoder-weights FILE, or run kt-batch try --encoder vgg19, which downloads them."
        )
    try:
        full = torch.hub.load_state_dict_from_url(
            TORCHVISION_URL, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
    except Exception as error:  # the network, the disk and the unpickler have no common base
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise WeightsError(
            f"VGG-19 could not be downloaded or read ({type(error).__name__}: {reason}); give the weights with "
            "--encoder-weights FILE."
        ) from error
    wanted = {f"features.{number}.{part}" for number in FEATURES.values() for part in ("weight", "bias")}
    state = {name: tensor.contiguous() for name, tensor in full.items() if name in wanted}
    return vgg19_from_state(state, {}, "torchvision"), state


def _check_hash(path: Path) -> None:
    try:
        with open_regular(path) as file:
            sha256 = hashlib.file_digest(cast("io.BufferedReader", file), "sha256").hexdigest()
    except (OSError, DamagedError) as error:
        raise WeightsError(f"The weight file '{path}' cannot be read: {error}.") from error
    if not sha256.startswith(TORCHVISION_SHA256):
        raise WeightsError(
            f"The weight file '{path}' has the SHA-256 {sha256}, which should begin with {TORCHVISION_SHA256}; "
            "remove it."
        )


def _convolutions(layers: tuple[str, ...]) -> list[str]:
    return [name for name in layers if kind(name) == "conv"]
