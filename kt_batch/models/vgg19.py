"""VGG-19 from torchvision, or from a file with torchvision's key names (`features.0.weight`, ...)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, hub

from kt_batch.errors import WeightsError
from kt_batch.models.encoder import Encoder, Preprocess
from kt_batch.models.layers import CUT_POINTS, VGG19_LAYERS, kind, layers_up_to

# Index of each convolution in torchvision's `vgg19().features`.
FEATURES = {
    "conv1_1": 0, "conv1_2": 2, "conv2_1": 5, "conv2_2": 7, "conv3_1": 10,
    "conv3_2": 12, "conv3_3": 14, "conv3_4": 16, "conv4_1": 19,
}  # fmt: skip
TORCHVISION_FILE = "vgg19-dcbb9e9d.pth"  # named by the head of its SHA-256
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
    encoder = Encoder(layers, widths, preprocess, padding)
    weights = {
        f"{name}.0.{part}": state[f"features.{FEATURES[name]}.{part}"] for name in widths for part in ("weight", "bias")
    }
    try:
        encoder.load_state_dict(weights)
    except RuntimeError as error:
        raise WeightsError(f"'{where}' does not fit VGG-19: {str(error).splitlines()[-1].strip()}") from error
    return encoder


def is_downloaded() -> bool:
    """Tell whether torchvision's file of VGG-19 is on this machine, from an earlier download."""
    return (Path(hub.get_dir()) / "checkpoints" / TORCHVISION_FILE).is_file()


def vgg19_from_torchvision() -> tuple[Encoder, dict[str, Tensor]]:
    """Return torchvision's IMAGENET1K_V1 and its state dict up to relu4_1; torchvision downloads it on first use.

    Raises:
        WeightsError: If torchvision is absent, does not fit this torch, or cannot download.
    """
    try:
        from torchvision.models import VGG19_Weights
    except (ImportError, RuntimeError) as error:  # RuntimeError: a CUDA torchvision with a CPU torch
        raise WeightsError(
            f"torchvision cannot be used here ({error}); give the weights with --encoder-weights FILE."
        ) from error
    try:
        full = VGG19_Weights.IMAGENET1K_V1.get_state_dict(check_hash=True, weights_only=True)
    except Exception as error:  # no network, another hash, or a file with code in it, for which torch has its own error
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise WeightsError(
            f"torchvision could not download VGG-19 ({reason}); give the weights with --encoder-weights FILE."
        ) from error
    wanted = {f"features.{number}.{part}" for number in FEATURES.values() for part in ("weight", "bias")}
    state = {name: tensor.contiguous() for name, tensor in full.items() if name in wanted}
    return vgg19_from_state(state, {}, "torchvision"), state


def _convolutions(layers: tuple[str, ...]) -> list[str]:
    return [name for name in layers if kind(name) == "conv"]
