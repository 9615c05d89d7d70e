"""The filter banks of a run: chosen by the driver from their files, and loaded by a worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from kt_batch.config import BankShare, MethodConfig
from kt_batch.errors import MismatchError, UsageError
from kt_batch.methods.base import Banks
from kt_batch.models.banks import LoadedBank, check_belongs, load_bank, load_network, network_of, shipped_banks
from kt_batch.pipelines.inputs import absolute_file
from kt_batch.pipelines.translate.masks import one_each
from kt_batch.store.collections import split_weight
from kt_batch.store.targets import local_path

MOST_BANKS = 256  # of a mixture
NO_REGIONS: Mapping[str, object] = {}


@dataclass(frozen=True)
class BankFile:
    """The file of a bank. images: Image id and file name of each style image."""

    path: str
    id: str
    images: tuple[tuple[str, str], ...]


def chosen_banks(
    given: Sequence[str], network: str | None, regions: Mapping[str, object] = NO_REGIONS
) -> tuple[tuple[BankFile, ...], str, dict[str, object]]:
    """Return the banks that texts such as `irises.bank.safetensors` and `irises.bank.safetensors=0.5` name.

    Weights are divided by their sum, so that they sum to 1. A bank that is named several times has the sum of its
    weights. Banks are ordered by content id, so that the order of the command changes nothing. For regions, banks have
    no weights, and `region_banks` keeps the order of the command.

    Args:
        given: The texts.
        network: The file of the network; None takes the one beside the first bank.
        regions: The fields of a configuration that say which regions there are.

    Returns:
        The files, the file of the network, and the fields of a configuration that name both by content.

    Raises:
        UsageError: A weight is not above 0 and at most MOST_WEIGHT, or there are too many banks.
        WeightsError: A file cannot be read.
        MismatchError: A bank belongs to another network.
    """
    if len(given) > MOST_BANKS:
        raise UsageError(f"{len(given)} banks are named; allowed are {MOST_BANKS}.")
    one_each(regions, "--bank", any(without_weight(text) != text for text in given))
    weights: dict[str, float] = {}
    order: list[str] = []
    loaded: dict[str, tuple[Path, LoadedBank]] = {}
    for text in given:
        name, weight = _split_weight(text)
        path = local_bank(name)
        bank = load_bank(path)
        loaded.setdefault(bank.id, (path, bank))
        weights[bank.id] = 1.0 if regions else weights.get(bank.id, 0.0) + weight
        order.append(bank.id)
    first, bank = next(iter(loaded.values()))
    place, whole = network_of(first, bank.header, network)
    for path, each in loaded.values():
        check_belongs(str(path), each.header, whole, str(place))
    total = sum(weights[identity] for identity in sorted(weights))
    files = [BankFile(str(path), each.id, tuple(sorted(each.header.images.items()))) for path, each in loaded.values()]
    files.sort(key=lambda file: file.id)
    shares = [
        BankShare(bank=file.id, weight=weights[file.id] / total, images=tuple(image for image, _ in file.images))
        for file in files
    ]
    ids = [file.id for file in files]
    named = {"region_banks": tuple(ids.index(each) for each in order)} if regions else {}
    return tuple(files), str(place), {"network": whole.id, "banks": tuple(shares), **named}


def local_bank(name: str) -> Path:
    """Return the path of a bank: of a file, or of the shipped bank that has this name and no file has.

    Raises:
        UsageError: It is no file of this machine.
    """
    path = _local(name)
    if path is None:
        raise UsageError(f"The bank '{name}' is no file of this machine; copy it to one that every worker sees.")
    return path if path.exists() else shipped_banks().get(name, path)


def without_weight(text: str) -> str:
    """Return the file that `FILE` or `FILE=WEIGHT` names. Raises UsageError as `chosen_banks` for the weight."""
    return _split_weight(text)[0]


def _split_weight(text: str) -> tuple[str, float]:
    """Return a file and its weight; a file whose own name ends so is that file."""
    path, weight = (text, None) if _is_file(text) else split_weight(text, "bank")
    return path, 1.0 if weight is None else weight


def _is_file(text: str) -> bool:
    found = _local(text)
    return found is not None and found.is_file()


def _local(text: str) -> Path | None:
    return local_path(text if "://" in text else absolute_file(text))


# ---- in a worker -----------------------------------------------------------------------------------------------------


def load_banks(config: MethodConfig, files: Sequence[BankFile], network: str | None, device: torch.device) -> Banks:
    """Load the network and the banks of a configuration to a device.

    Raises:
        WeightsError: A file cannot be read.
        MismatchError: It is not the one that was planned.
    """
    loaded = load_network(Path(network or ""))
    _check_unchanged(network or "", loaded.id, config.network or "")
    banks = []
    for file, share in zip(files, config.banks, strict=True):
        bank = load_bank(Path(file.path))
        _check_unchanged(file.path, bank.id, share.bank)
        banks.append(bank.bank.to(device))
    return Banks(loaded.network.to(device), tuple(banks))


def _check_unchanged(path: str, found: str, planned: str) -> None:
    if found != planned:
        raise MismatchError(f"'{path}' holds {found[:16]}, and the run was planned with {planned[:16]}.")
