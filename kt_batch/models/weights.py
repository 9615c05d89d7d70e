"""Weight files: list the shipped ones, check files, and build networks from them. safetensors only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from kt_batch.errors import DamagedError, MismatchError, UsageError, WeightsError
from kt_batch.models.decoder import ACTIVATIONS, Decoder
from kt_batch.models.encoder import Encoder, Preprocess, Widths
from kt_batch.models.layers import VGG19_LAYERS, kind
from kt_batch.models.peers import StyleSwapInverse, peer_decoder
from kt_batch.models.vgg19 import vgg19_from_state, vgg19_from_torchvision
from kt_batch.store.documents import parse_document
from kt_batch.store.regular import read_regular

ENCODER_FORMAT = "kt-batch-encoder/2"
DECODER_FORMAT = "kt-batch-decoder/1"
MOST_BYTES = 1 << 30  # of a weight file: twice a whole VGG-19
MOST_BLOCKS, MOST_SCALE = 64, 16  # of a decoder; relu4_1 needs a scale of 8
ENCODERS = ("kt-vgg", "vgg19")

Network = TypeVar("Network", bound=torch.nn.Module)


@dataclass(frozen=True)
class EncoderSource:
    """The origin of an encoder; small enough to send to a worker.

    path: A weight file; None: the shipped or downloaded weights. download: They may be downloaded; False where a
    library names the encoder, not its user.
    """

    name: str = "kt-vgg"
    path: str | None = None
    download: bool = True


@dataclass(frozen=True)
class LoadedEncoder:
    """A network ready to encode, and the SHA-256 of its weights, which libraries record and which tells it apart."""

    network: Encoder = field(compare=False)
    sha256: str


@dataclass(frozen=True)
class LoadedDecoder:
    """A network ready to decode, and the SHA-256 of its weights."""

    network: Decoder
    sha256: str


@dataclass(frozen=True)
class ShippedPart:
    """One shipped weight file: an encoder (`part` is `encoder`), or the decoder for the cut `part`."""

    name: str
    part: str
    channels: int | None
    stride: int | None
    parameters: int
    bytes: int
    sha256: str
    file: str


def shipped() -> dict[str, dict[str, dict[str, str]]]:
    """Return the manifest of shipped weights: name, part (`encoder`, `relu3_1`, ...), then `file` and `sha256`."""
    text = resources.files("kt_batch.models").joinpath("weights/weights.json").read_text()
    manifest: dict[str, dict[str, dict[str, str]]] = json.loads(text)
    return manifest


def describe_shipped() -> list[ShippedPart]:
    """Load and check every shipped file; return encoders before their decoders."""
    found = []
    for name, parts in shipped().items():
        encoder = load_encoder(EncoderSource(name))
        for part, entry in sorted(parts.items()):
            network: torch.nn.Module = encoder.network
            channels = stride = None
            if part != "encoder":
                network = load_decoder(encoder, name, part, None).network
                channels, stride = encoder.network.channels_at(part), encoder.network.geometry(part).stride
            found.append(
                ShippedPart(
                    name=name,
                    part=part,
                    channels=channels,
                    stride=stride,
                    parameters=sum(value.numel() for value in network.parameters()),
                    bytes=len(_read_shipped(name, part)),
                    sha256=entry["sha256"],
                    file=entry["file"],
                )
            )
    return found


def load_encoder(source: EncoderSource) -> LoadedEncoder:
    """Load `kt-vgg` (shipped), `vgg19` (torchvision) or a file.

    Raises:
        WeightsError: If the weights are damaged or cannot be had.
        UsageError: For an unknown name.
    """
    if source.path is not None:
        data = read_weights(Path(source.path))
        return LoadedEncoder(_encoder_from(data, source.path), _sha256(data))
    if source.name in shipped():
        data = _read_shipped(source.name, "encoder")
        return LoadedEncoder(_encoder_from(data, source.name), _sha256(data))
    if source.name == "vgg19":
        network, state = vgg19_from_torchvision(download=source.download)
        return LoadedEncoder(ready(network), _sha256(save(state)))
    raise UsageError(f"There is no encoder '{source.name}'; choose one of {', '.join(ENCODERS)}.")


def load_decoder(encoder: LoadedEncoder, name: str, layer: str, path: str | None) -> LoadedDecoder:
    """Load the decoder for `layer` of this encoder: the shipped one, or a file trained for it or by a peer.

    Args:
        encoder: The encoder it must fit.
        name: The encoder's name in the manifest.
        layer: The cut.
        path: A weight file; None: the shipped decoder.

    Raises:
        UsageError: If none is shipped and `path` is None.
        MismatchError: If the file is for another encoder.
        WeightsError: If the file is damaged, or its details cannot be restored.
    """
    parts = shipped().get(name, {})
    if path is None and layer not in parts:
        raise UsageError(
            f"No decoder is shipped for encoder '{name}' at {layer}; give --decoder-weights FILE, trained for it."
        )
    data = _read_shipped(name, layer) if path is None else read_weights(Path(path))
    where = path or f"{name} {layer}"
    tensors, metadata = parse(data, None, where)
    peer = peer_decoder(tensors, layer)
    if peer is not None:
        _check_channels(peer, encoder, layer, where)
        return LoadedDecoder(ready(peer), _sha256(data))
    _check_format(metadata, DECODER_FORMAT, where)
    with described(where):
        if metadata["encoder_sha256"] != encoder.sha256 or metadata["layer"] != layer:
            raise MismatchError(
                f"The decoder '{where}' is for encoder {metadata['encoder_sha256'][:16]} at {metadata['layer']}, "
                f"not for {encoder.sha256[:16]} at {layer}."
            )
        decoder = _decoder_from(tensors, metadata)
    fill(decoder, tensors, where)
    decoder.check_details(f"of '{where}'")
    return LoadedDecoder(ready(decoder), _sha256(data))


def load_style_swap(path: str) -> StyleSwapInverse:
    """Load the published inverse network of style-swap. Raises WeightsError for another file."""
    tensors, _ = parse(read_weights(Path(path)), None, path)
    with torch.device("meta"):
        network = StyleSwapInverse()
    fill(network, tensors, path)
    return ready(network)


def _decoder_from(tensors: dict[str, Tensor], metadata: dict[str, str]) -> Decoder:
    """Return a decoder without memory for its weights, as a file describes it."""
    if metadata["activation"] not in ACTIVATIONS:
        raise ValueError(f"unknown activation {metadata['activation'][:32]!r}")
    blocks = tuple(metadata["blocks"].split())
    if len(blocks) > MOST_BLOCKS:
        raise ValueError(f"{len(blocks)} blocks; allowed are {MOST_BLOCKS}")
    with torch.device("meta"):
        decoder = Decoder(
            int(metadata["channels"]),
            blocks,
            metadata["activation"],
            direct="direct.weight" in tensors,
            details=len(tensors.get("detail.weight", ())),
        )
    if decoder.scale > MOST_SCALE:
        raise ValueError(f"a scale of {decoder.scale}; allowed are at most {MOST_SCALE}")
    return decoder


def encoder_bytes(encoder: Encoder, name: str) -> bytes:
    """Return an encoder as a weight file: float16 tensors, and metadata that rebuild it."""
    metadata = {
        "format": ENCODER_FORMAT,
        "name": name,
        "layers": " ".join(encoder.layers),
        "padding": encoder.padding,
        "preprocess": json.dumps(asdict(encoder.preprocess)),
    }
    return safetensors_bytes(_half(encoder), metadata)


def decoder_bytes(decoder: Decoder, encoder_sha256: str, layer: str) -> bytes:
    """Return a decoder as a weight file."""
    metadata = {
        "format": DECODER_FORMAT,
        "encoder_sha256": encoder_sha256,
        "layer": layer,
        "channels": str(decoder.channels),
        "blocks": " ".join(decoder.blocks),
        "activation": decoder.activation,
    }
    return safetensors_bytes(_half(decoder), metadata)


def safetensors_bytes(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """Return a safetensors file of deterministic bytes; `save` writes metadata in random order."""
    data = save(tensors, metadata)
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8
    return len(text).to_bytes(8, "little") + text + data[start:]


def parse(data: bytes, expected: str | None, where: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors (float32) and metadata of a safetensors file.

    Args:
        data: The file.
        expected: The format it must have; None: any.
        where: Name of the file in error messages.

    Raises:
        WeightsError: If the file is not safetensors, or of another format.
    """
    try:
        tensors = {name: tensor.float() for name, tensor in load(data).items()}
    except (SafetensorError, ValueError) as error:
        raise WeightsError(
            f"'{where}' is not a safetensors file ({error}); pickled weights such as .pth are refused, convert them."
        ) from error
    length = int.from_bytes(data[:8], "little")
    with described(where):
        header = parse_document(data[8 : 8 + length], f"the header of '{where}'")
    metadata: dict[str, str] = header.get("__metadata__") or {}
    if empty := [name for name, tensor in tensors.items() if not tensor.numel()]:
        raise WeightsError(f"'{where}' holds the tensor {empty[0][:64]!r} without a value.")
    if expected is not None:
        _check_format(metadata, expected, where)
    return tensors, metadata


def _check_format(metadata: dict[str, str], expected: str, where: str) -> None:
    if metadata.get("format") != expected:
        raise WeightsError(f"'{where}' has format '{metadata.get('format')}', expected '{expected}'.")


def _check_channels(decoder: Decoder, encoder: LoadedEncoder, layer: str, where: str) -> None:
    channels = encoder.network.channels_at(layer)
    if decoder.channels != channels:
        raise MismatchError(f"The decoder '{where}' takes {decoder.channels} channels, the encoder has {channels}.")


def _encoder_from(data: bytes, where: str) -> Encoder:
    tensors, metadata = parse(data, None, where)
    if any(name.startswith("features.") for name in tensors):
        with described(where):
            return ready(vgg19_from_state(tensors, metadata, where))
    if metadata.get("format") != ENCODER_FORMAT:
        raise WeightsError(f"'{where}' is neither of format {ENCODER_FORMAT} nor a VGG-19 with keys 'features.N.*'.")
    with described(where):
        layers = tuple(metadata["layers"].split())
        if len(layers) > len(VGG19_LAYERS):
            raise ValueError(f"{len(layers)} layers; allowed are {len(VGG19_LAYERS)}")
        widths = {layer: _widths(tensors, layer, where) for layer in layers if kind(layer) == "conv"}
        details = {cut: tensors[f"detail_{cut}.weight"].shape[0] for cut in layers if f"detail_{cut}.weight" in tensors}
        codes = {cut: tensors[f"code_{cut}.weight"].shape[0] for cut in layers if f"code_{cut}.weight" in tensors}
        preprocess = _preprocess(parse_document(metadata["preprocess"], f"'preprocess' in '{where}'"))
        with torch.device("meta"):
            encoder = Encoder(layers, widths, preprocess, metadata["padding"], codes, details)
    fill(encoder, tensors, where)
    return ready(encoder)


def _preprocess(content: dict[str, Any]) -> Preprocess:
    """Return the input transform that a file describes; raise ValueError or KeyError for another content."""
    mean, std = (tuple[Any, ...](content[name]) for name in ("mean", "std"))
    given = Preprocess(**content | {"mean": mean, "std": std})
    numbers: tuple[Any, ...] = (given.scale, *mean, *std)
    if given.order not in ("rgb", "bgr") or len(mean) != 3 or len(std) != 3:
        raise ValueError("preprocess: allowed are the orders rgb and bgr, and three values each of mean and std")
    if not all(isinstance(number, int | float) and abs(number) < 2**31 for number in numbers) or 0 in std:
        raise ValueError("preprocess: scale, mean and std are numbers, and std is not 0")
    return given


def _widths(tensors: dict[str, Tensor], layer: str, where: str) -> Widths:
    """Return the widths of a layer from the shapes of its weights `(N, C, k, k)`."""
    if f"{layer}.0.weight" not in tensors:
        raise WeightsError(f"'{where}' lacks the weights of {layer}.")
    first = tensors[f"{layer}.0.weight"].shape[0]
    second = tensors.get(f"{layer}.1.weight")
    return (first,) if second is None else (first, second.shape[0])


@contextmanager
def described(where: str) -> Iterator[None]:
    """Turn errors in building a network from a file's description into WeightsError."""
    try:
        yield
    except DamagedError as error:
        raise WeightsError(f"{error}.") from error
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        what = (str(error).splitlines() or [""])[0]
        raise WeightsError(f"'{where}' does not describe a network ({type(error).__name__}: {what}).") from error


def fill(network: torch.nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Give a network its tensors, which `where` holds. Raises WeightsError where they are not those of the network."""
    try:
        network.load_state_dict(tensors, assign=True)  # the network was built without memory for its weights
    except RuntimeError as error:
        raise WeightsError(f"'{where}' does not fit its network: {str(error).splitlines()[-1].strip()}") from error


def ready(network: Network) -> Network:
    """Return a network for use alone: without gradients, in the layout that convolutions prefer."""
    network.eval().requires_grad_(False)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _half(network: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().half().contiguous() for name, tensor in network.state_dict().items()}


def _read_shipped(name: str, part: str) -> bytes:
    entry = shipped()[name][part]
    data = resources.files("kt_batch.models").joinpath("weights", entry["file"]).read_bytes()
    if _sha256(data) != entry["sha256"]:
        raise WeightsError(f"The shipped file '{entry['file']}' is damaged: its SHA-256 is not the listed one.")
    return data


def read_weights(path: Path) -> bytes:
    """Return a weight file of at most MOST_BYTES. Raises WeightsError where it cannot be read."""
    try:
        return read_regular(path, MOST_BYTES)
    except DamagedError as error:
        raise WeightsError(f"The weight file '{path}' cannot be read: {error}.") from error
    except OSError as error:
        raise WeightsError(f"The weight file '{path}' cannot be read: {error.strerror}.") from error


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
