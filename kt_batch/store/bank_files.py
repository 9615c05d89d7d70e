"""The headers of the files of StyleBank: a network, or a filter bank of one style. No tensor is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kt_batch.errors import DamagedError
from kt_batch.store.documents import parse_document

NETWORK_FORMAT = "kt-batch-stylebank/1"
BANK_FORMAT = "kt-batch-bank/1"
BANK_SUFFIX = ".bank.safetensors"
MOST_HEADER = 1 << 20  # bytes
MOST_CHANNELS, MOST_KERNEL = 512, 15
MOST_DIGITS = 12  # of the number of steps

_ID = re.compile(r"[0-9a-f]{64}")
_IMAGE = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class BankHeader:
    """The facts about a bank that its file states.

    name: Of the style. network: Content id of the network that it belongs to. images: Image id -> file name of each
    style image. kernel: Side of the filters. channels: Of the features. steps: Of its training. losses: By name, on
    samples at the end of the training. added: Trained beside a network that stayed as it was.
    """

    name: str
    network: str
    images: Mapping[str, str]
    kernel: int
    channels: int
    steps: int = 0
    losses: Mapping[str, float] = field(default_factory=dict)
    added: bool = False


def network_name(network: str) -> str:
    """Return the name of the file of a network, by its content id."""
    return f"network-{network[:16]}.safetensors"


def header_length(start: bytes, where: str) -> int:
    """Return the length of the header of a safetensors file, which begins after these eight bytes.

    Raises:
        DamagedError: There is none.
    """
    length = int.from_bytes(start[:8], "little")
    if len(start) < 8 or not 2 <= length <= MOST_HEADER:
        raise DamagedError(f"'{where}' is no safetensors file of a bank")
    return length


def parse_bank_header(text: bytes, where: str) -> BankHeader:
    """Return what the header of a bank's file says.

    Args:
        text: The JSON between the first eight bytes and the tensors.
        where: Name of the file in error messages.

    Raises:
        DamagedError: It is no bank, or says what cannot be.
    """
    header = parse_document(text, f"the header of '{where}'")
    said = header.get("__metadata__") or {}
    if not isinstance(said, dict) or said.get("format") != BANK_FORMAT:
        raise DamagedError(f"'{where}' is no filter bank of the format {BANK_FORMAT}")
    try:
        check_halves(header)
        return _checked(said, header["bank"]["shape"])
    except (KeyError, TypeError, ValueError, DamagedError) as error:
        raise DamagedError(f"'{where}' does not describe a filter bank ({type(error).__name__}: {error})") from error


def check_size(header: BankHeader, length: int, size: int, where: str) -> None:
    """Raise DamagedError where a file of `size` bytes, with a header of `length`, does not hold the values of its bank.

    A safetensors file begins with eight bytes; a value has two.
    """
    expected = 8 + length + 2 * (header.channels * header.kernel) ** 2
    if size != expected:
        raise DamagedError(f"'{where}' has {size:,} bytes, and its header and its filters have {expected:,}")


def check_halves(header: Mapping[str, Any]) -> None:
    """Raise ValueError where a tensor of a safetensors header is not float16: content ids tell no others apart."""
    for name, tensor in header.items():
        if name != "__metadata__" and tensor["dtype"] != "F16":
            raise ValueError(f"the tensor {name[:64]!r} is {str(tensor['dtype'])[:16]}; allowed is F16")


def _checked(said: Mapping[str, str], shape: list[Any]) -> BankHeader:
    out, into, height, width = (int(side) for side in shape)
    images = parse_document(said["images"], "'images'")
    losses = parse_document(said["losses"], "'losses'")
    if not said["steps"].isdecimal() or len(said["steps"]) > MOST_DIGITS:
        raise ValueError(f"{said['steps'][:20]!r} steps; allowed is a number of up to {MOST_DIGITS} digits")
    if out != into or height != width or height % 2 == 0 or out > MOST_CHANNELS or height > MOST_KERNEL:
        raise ValueError(f"filters of shape {shape}; allowed are C x C x k x k, k odd")
    if not _ID.fullmatch(said["network"]) or not images or not all(_IMAGE.fullmatch(image) for image in images):
        raise ValueError("the id of the network has 64 hex digits, those of style images 16 each")
    return BankHeader(
        name=str(said["name"])[:200],
        network=said["network"],
        images={image: str(name)[:500] for image, name in images.items()},
        kernel=height,
        channels=out,
        steps=int(said["steps"]),
        losses={name: float(value) for name, value in losses.items()},
        added=said.get("added") == "yes",
    )
