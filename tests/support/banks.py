"""The smallest trainings of filter banks, and their files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from kt_batch.models.banks import bank_bytes, content_id, network_bytes
from kt_batch.models.stylebank import AutoEncoder, new_bank
from kt_batch.models.weights import EncoderSource
from kt_batch.store.bank_files import BankHeader, network_name
from kt_batch.training.autoencoder import Member
from kt_batch.training.stylebank.job import BankJob, train_banks
from kt_batch.training.stylebank.settings import BankSettings
from tests.support.tiny import draw, draw_all

SETTINGS = BankSettings(steps=4, batch=2, size=16, style_size=32, channels=8, learning_rate=0.003)


def alone(member: Member) -> None:
    """Run a member of a training in this process."""
    member(0, 1, None)


def ignore(name: str, step: int, losses: dict[str, float]) -> None:
    """Ignore a report."""


def job_in(place: Path, out: str = "out", styles: tuple[int, ...] = (1, 2), **settings: object) -> BankJob:
    """Return a training of two styles on two photographs below `place`."""
    photographs = draw_all(place / "photographs", [11, 12])
    paintings = tuple(str(draw(place / "paintings" / f"{style}.png", style)) for style in styles)
    return BankJob(
        images=(str(photographs),),
        styles=paintings,
        encoder=EncoderSource(),
        add_to=None,
        out=place / out,
        settings=replace(SETTINGS, **settings),  # type: ignore[arg-type]
        threads=1,
        sample_every=4,
    )


def trained(job: BankJob) -> Path:
    """Train, and return the folder of the weights."""
    return train_banks(job, ignore, alone)


def network_in(weights: Path) -> Path:
    """Return the file of the network in a folder of weights."""
    (network,) = weights.glob("network-*.safetensors")
    return network


def files(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def save_network(folder: Path, seed: int = 0) -> str:
    """Write a random network of 8 channels; return its content id."""
    torch.manual_seed(seed)
    network = AutoEncoder(8)
    identity = content_id(network.state_dict())
    folder.mkdir(exist_ok=True)
    (folder / network_name(identity)).write_bytes(network_bytes(network))
    return identity


def save_bank(path: Path, network: str, seed: int, kernel: int = 3, image: str | None = None) -> Path:
    """Write a random bank of a style image; by default of the one whose id is 16 times the last digit of the seed."""
    bank = new_bank(8, kernel, torch.Generator().manual_seed(seed))
    header = BankHeader(path.stem, network, {image or str(seed % 10) * 16: f"{seed % 10}.jpg"}, kernel, 8)
    path.write_bytes(bank_bytes(bank, header))
    return path
