"""The files of StyleBank: the network, and one filter bank for each style. safetensors only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from kt_batch.errors import DamagedError, MismatchError, WeightsError
from kt_batch.models.stylebank import AutoEncoder
from kt_batch.models.weights import described, fill, parse, read_weights, ready, safetensors_bytes
from kt_batch.store.bank_files import (
    BANK_FORMAT,
    BANK_SUFFIX,
    MOST_CHANNELS,
    NETWORK_FORMAT,
    BankHeader,
    check_halves,
    header_length,
    network_name,
    parse_bank_header,
)
from kt_batch.store.documents import parse_document

SHIPPED = Path(__file__).parent / "weights" / "stylebank"  # a network and its banks


@dataclass(frozen=True)
class LoadedNetwork:
    """The auto-encoder, ready to use, and its content id."""

    network: AutoEncoder = field(compare=False)
    id: str


@dataclass(frozen=True)
class LoadedBank:
    """A bank `(C, C, k, k)` float32, its content id, and what its file says."""

    bank: Tensor = field(compare=False)
    id: str
    header: BankHeader


def shipped_banks() -> dict[str, Path]:
    """Return the files of the shipped banks by name."""
    return {path.name.removesuffix(BANK_SUFFIX): path for path in sorted(SHIPPED.glob(f"*{BANK_SUFFIX}"))}


def content_id(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of tensors by name: of each name, shape and float16 values, by ascending name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {list(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().half().contiguous().numpy().astype("<f2").tobytes())
    return digest.hexdigest()


def network_bytes(network: AutoEncoder) -> bytes:
    """Return a network as a file of float16 tensors."""
    tensors = {name: tensor.detach().cpu().half().contiguous() for name, tensor in network.state_dict().items()}
    said = {"format": NETWORK_FORMAT, "id": content_id(tensors), "channels": str(network.channels)}
    return safetensors_bytes(tensors, said)


def bank_bytes(bank: Tensor, header: BankHeader) -> bytes:
    """Return a bank `(C, C, k, k)` as a file of float16 values."""
    tensors = {"bank": bank.detach().cpu().half().contiguous()}
    said = {
        "format": BANK_FORMAT,
        "id": content_id(tensors),
        "name": header.name,
        "network": header.network,
        "images": json.dumps(dict(sorted(header.images.items()))),
        "steps": str(header.steps),
        "losses": json.dumps({name: round(value, 6) for name, value in sorted(header.losses.items())}),
        "added": "yes" if header.added else "no",
    }
    return safetensors_bytes(tensors, said)


def load_network(path: Path) -> LoadedNetwork:
    """Load a network.

    Raises:
        WeightsError: The file cannot be read, or is no such network.
    """
    data = read_weights(path)
    tensors, said = parse(data, NETWORK_FORMAT, str(path))
    with described(str(path)):
        check_halves(parse_document(data[8 : 8 + header_length(data[:8], str(path))], "the header"))
        channels = int(said["channels"])
        if not 4 <= channels <= MOST_CHANNELS or channels % 4:
            raise ValueError(f"{channels} channels; allowed are multiples of 4 up to {MOST_CHANNELS}")
        with torch.device("meta"):
            network = AutoEncoder(channels)
    fill(network, tensors, str(path))
    return LoadedNetwork(ready(network), content_id(network.state_dict()))


def load_bank(path: Path) -> LoadedBank:
    """Load a bank.

    Raises:
        WeightsError: The file cannot be read, or is no bank.
    """
    data = read_weights(path)
    tensors, _ = parse(data, None, str(path))
    try:
        header = parse_bank_header(data[8 : 8 + header_length(data[:8], str(path))], str(path))
    except DamagedError as error:
        raise WeightsError(f"{error}.") from error
    bank = tensors["bank"]
    if not bank.isfinite().all():
        raise WeightsError(f"The bank '{path}' holds NaN or infinity; take another one.")
    return LoadedBank(bank, content_id({"bank": bank}), header)


def network_of(bank: Path, header: BankHeader, given: str | None) -> tuple[Path, LoadedNetwork]:
    """Load the network of a bank: the given file, or the one that lies beside the bank under its content id.

    Raises:
        WeightsError: There is none, or it is damaged.
        MismatchError: The bank belongs to another network.
    """
    path = Path(given) if given is not None else bank.parent / network_name(header.network)
    if given is None and not path.is_file():
        raise WeightsError(
            f"The network of the bank '{bank}' is not beside it as '{path.name}'; give it with --network."
        )
    loaded = load_network(path)
    check_belongs(str(bank), header, loaded, str(path))
    return path, loaded


def check_belongs(bank: str, header: BankHeader, network: LoadedNetwork, where: str) -> None:
    """Raise MismatchError where a bank belongs to another network, or has other channels than it says."""
    if header.network != network.id:
        raise MismatchError(
            f"The bank '{bank}' belongs to the network {header.network[:16]}, and '{where}' is {network.id[:16]}; "
            "take a bank that was trained for it, or train one with --add-to."
        )
    if header.channels != network.network.channels:
        raise MismatchError(
            f"The bank '{bank}' has {header.channels} channels, and its network '{where}' has "
            f"{network.network.channels}."
        )
