"""Filter banks of StyleBank by the painting that each was trained for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kt_batch.config import BankShare
from kt_batch.errors import MismatchError, MissingError, UsageError
from kt_batch.evaluation.style.pictures import StylePicture
from kt_batch.methods.base import Banks
from kt_batch.models.banks import check_belongs, load_bank, load_network, network_of, shipped_banks
from kt_batch.pipelines.translate.banks import local_bank


class NoBankError(MissingError):
    """No bank was trained for a painting."""


@dataclass(frozen=True)
class PaintingBank:
    """The filter bank of a painting.

    name: As the command names it. path, network: Files of the bank and of its network. id: Content id of the bank.
    images: Image id -> name of each style image. steps: Of its training. added: Trained beside a network that stayed as
    it was.
    """

    name: str
    path: str
    network: str
    id: str
    images: Mapping[str, str]
    steps: int
    added: bool


def banks_by_painting(given: Sequence[str], network: str | None = None) -> dict[str, PaintingBank]:
    """Return the bank of each style image, by image id.

    Args:
        given: Files, or names of shipped banks; without any, all shipped banks.
        network: The file of their network; None takes the one beside each bank.

    Raises:
        UsageError: Two different banks were trained for one style image, or a bank is no file of this machine.
        WeightsError: A file cannot be read.
        MismatchError: A bank belongs to another network.
    """
    found: dict[str, PaintingBank] = {}
    for name in given or shipped_banks():
        path = local_bank(name)
        bank = load_bank(path)
        place, _ = network_of(path, bank.header, network)
        header = bank.header
        ours = PaintingBank(name, str(path), str(place), bank.id, dict(header.images), header.steps, header.added)
        for image, title in header.images.items():
            other = found.setdefault(image, ours)
            if other.id != ours.id:
                raise UsageError(
                    f"--bank got '{other.name}' and '{name}', which were both trained for '{title}'; give one of them."
                )
    return found


def check_used(given: Sequence[str], banks: Mapping[str, PaintingBank], paintings: Sequence[StylePicture]) -> None:
    """Raise UsageError for a bank that the command names and that was trained for none of the paintings."""
    ids = {painting.id for painting in paintings}
    for bank in banks.values():
        if given and not ids & bank.images.keys():
            image, title = next(iter(bank.images.items()))
            raise UsageError(
                f"--bank got '{bank.name}', which was trained for '{title}' (image id {image}), and none of the "
                "paintings is that file; give the painting as --style, or leave the bank out."
            )


def bank_for(painting: StylePicture, banks: Mapping[str, PaintingBank]) -> PaintingBank:
    """Return the bank of a painting. Raises NoBankError when there is none."""
    if painting.id not in banks:
        name = painting.uri.rstrip("/").rsplit("/", 1)[-1]
        raise NoBankError(f"No bank was trained for '{name}'; give one with --bank.")
    return banks[painting.id]


def load_painting_bank(bank: PaintingBank) -> tuple[dict[str, object], Banks]:
    """Load a bank and its network.

    Returns:
        The fields of a configuration that name both by content, and the tensors.

    Raises:
        WeightsError: A file cannot be read.
        MismatchError: A file is not the one that was chosen.
    """
    loaded, network = load_bank(Path(bank.path)), load_network(Path(bank.network))
    if loaded.id != bank.id:
        raise MismatchError(f"The bank '{bank.path}' has changed since the comparison began.")
    check_belongs(bank.path, loaded.header, network, bank.network)
    share = BankShare(bank=loaded.id, weight=1.0, images=tuple(sorted(loaded.header.images)))
    return {"network": network.id, "banks": (share,)}, Banks(network.network, (loaded.bank,))
