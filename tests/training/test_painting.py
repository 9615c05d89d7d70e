"""Complete trainings of decoders for paintings, from two folders of images to loadable weight files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kt_batch.errors import MismatchError, UsageError
from kt_batch.models.weights import EncoderSource, load_decoder, load_encoder
from kt_batch.training import autoencoder, painting
from kt_batch.training.autoencoder import Member
from kt_batch.training.painting import PaintingJob, train_for_painting
from kt_batch.training.settings import TrainSettings
from tests.support.tiny import draw_all

LOADED = load_encoder(EncoderSource())


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PaintingJob:
    """A training of a few small steps."""
    monkeypatch.setattr(painting, "TRANSFERRED_CROP", 32)
    monkeypatch.setattr(painting, "STANDARDISED", 1)
    monkeypatch.setattr(autoencoder, "FIT_BATCH", 2)
    monkeypatch.setattr(autoencoder, "SAVE_EVERY", 1)
    settings = TrainSettings(learning_rate=0.002, warmup_steps=1, content=0.1, style=0.3)
    monkeypatch.setattr(painting, "TRANSFERRED", settings)
    draw_all(tmp_path / "photographs", [1, 2, 3])
    draw_all(tmp_path / "paintings", [4, 5, 6])
    return PaintingJob(
        photographs=(str(tmp_path / "photographs"),),
        paintings=(str(tmp_path / "paintings"),),
        encoder=EncoderSource(),
        out=tmp_path / "out",
        steps={"relu2_1": 2, "relu1_1": 1},
        batch=2,
        threads=1,
        seed=0,
    )


def ignore(cut: str, step: int, losses: dict[str, float]) -> None:
    """Ignore a report."""


def alone(member: Member) -> None:
    member(0, 1, None)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_training_writes_decoders_beside_the_shipped_ones(job: PaintingJob) -> None:
    steps: list[tuple[str, int]] = []
    weights = train_for_painting(job, lambda cut, step, losses: steps.append((cut, step)), alone)
    assert steps == [("relu2_1/transferred", 1), ("relu2_1/transferred", 2), ("relu1_1/transferred", 1)]
    names = {f"painting.{cut}": f"kt-vgg-4.painting.{cut}.safetensors" for cut in job.steps}
    assert set(files(weights)) == {"weights.json", *names.values()}
    listed = json.loads((weights / "weights.json").read_text())["kt-vgg"]
    assert {part: entry["file"] for part, entry in listed.items()} == names
    features = LOADED.network.encode(torch.rand(1, 3, 16, 16), "relu2_1")
    new = load_decoder(LOADED, "kt-vgg", "relu2_1", str(weights / names["painting.relu2_1"]))
    old = load_decoder(LOADED, "kt-vgg", "relu2_1", None)
    change = (new.network.decode(features) - old.network.decode(features)).abs().mean()
    assert 0 < change < 0.05  # two small steps from the shipped weights


def test_an_interrupted_training_resumes_from_its_last_state(job: PaintingJob) -> None:
    def breaks(cut: str, step: int, losses: dict[str, float]) -> None:
        if (cut, step) == ("relu2_1/transferred", 2):
            raise ZeroDivisionError("the machine went down")

    with pytest.raises(ZeroDivisionError):
        train_for_painting(job, breaks, alone)
    steps: list[tuple[str, int]] = []
    train_for_painting(job, lambda cut, step, losses: steps.append((cut, step)), alone)
    assert steps == [("relu2_1/transferred", 2), ("relu1_1/transferred", 1)]


def test_equal_trainings_give_equal_files(job: PaintingJob) -> None:
    first, again = (train_for_painting(replace(job, out=job.out / name), ignore, alone) for name in ("one", "two"))
    assert files(first) == files(again)


def test_a_cut_gets_the_pictures_of_the_decoder_that_was_trained_before(job: PaintingJob) -> None:
    both = train_for_painting(job, ignore, alone)
    lone = train_for_painting(replace(job, steps={"relu1_1": 1}, out=job.out / "lone"), ignore, alone)
    name = "kt-vgg-4.painting.relu1_1.safetensors"
    assert files(both)[name] != files(lone)[name]


def test_resuming_with_another_seed_is_refused(job: PaintingJob) -> None:
    train_for_painting(job, ignore, alone)
    with pytest.raises(MismatchError, match=r"seed \(0 there, 1 here\)"):
        train_for_painting(replace(job, seed=1), ignore, alone)


def test_an_encoder_without_shipped_decoders_cannot_be_trained_for(job: PaintingJob) -> None:
    with pytest.raises(UsageError, match="There is no encoder 'mine'"):
        train_for_painting(replace(job, encoder=EncoderSource("mine")), ignore, alone)
