"""Training from a folder of images to weight files that load."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from jobs.train_autoencoder import STEPS, parse_steps
from kt_batch.errors import MismatchError, RejectError, UsageError
from kt_batch.models.layers import VGG19_LAYERS
from kt_batch.models.training import TrainSettings
from kt_batch.models.vgg19 import FEATURES
from kt_batch.models.weights import EncoderSource, LoadedDecoder, LoadedEncoder, load_decoder, load_encoder
from kt_batch.pipelines import crops as crops_module
from kt_batch.pipelines import train as train_module
from kt_batch.pipelines import train_metrics
from kt_batch.pipelines.crops import crops
from kt_batch.pipelines.train import HELD_OUT, RECIPES, Member, Recipe, TrainJob, train_autoencoder, training_uris
from kt_batch.pipelines.train_metrics import Metrics
from kt_batch.store.images import image_id
from kt_batch.store.inputs import read_input

LAYERS = VGG19_LAYERS[:7]  # up to relu2_1
TEACHERS = {"conv1_1": (6, 3), "conv1_2": (6, 6), "conv2_1": (16, 6)}
BLOCKS = {"relu1_1": ("conv:4", "out"), "relu2_1": ("conv:6", "res", "subpixel-out")}


def pictures(folder: Path, count: int) -> list[Path]:
    folder.mkdir()
    random = np.random.default_rng(0)
    paths = [folder / f"{number}.png" for number in range(count)]
    for path in paths:
        Image.fromarray(random.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    return paths


def teacher(path: Path) -> EncoderSource:
    """A narrow VGG-19 up to relu2_1, of random weights."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, (out, into) in TEACHERS.items():
        state[f"features.{FEATURES[name]}.weight"] = 0.2 * torch.randn(out, into, 3, 3, generator=generator)
        state[f"features.{FEATURES[name]}.bias"] = torch.zeros(out)
    save_file(state, path)
    return EncoderSource("vgg19", str(path))


def recipe_of(monkeypatch: pytest.MonkeyPatch, *stages: TrainSettings) -> None:
    monkeypatch.setattr(
        train_module, "RECIPES", {"default": Recipe(BLOCKS, "relu", direct=("relu2_1",), stages=stages)}
    )


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything about the training as it is, but small."""
    recipe_of(monkeypatch, TrainSettings(warmup_steps=1), TrainSettings(steps=2, warmup_steps=1, swapped=0.1))
    monkeypatch.setattr(train_module, "VGG19_LAYERS", LAYERS)
    monkeypatch.setattr(train_module, "WIDTHS", {"conv1_1": (6,), "conv1_2": (4, 6), "conv2_1": (8, 16)})
    monkeypatch.setattr(train_module, "CODES", {"relu1_1": 4, "relu2_1": 12})
    monkeypatch.setattr(train_module, "DETAILS", {"relu2_1": 2})
    monkeypatch.setattr(train_module, "SWAPPED_AT", ("relu1_1", "relu2_1"))
    monkeypatch.setattr(train_module, "CROP", 16)
    monkeypatch.setattr(train_module, "FIT_BATCHES", 3)
    monkeypatch.setattr(train_module, "FIT_BATCH", 2)
    monkeypatch.setattr(train_module, "SAVE_EVERY", 2)
    monkeypatch.setattr(train_metrics, "EVERY", 2)


@dataclass
class Place:
    """A folder with four images and a teacher."""

    root: Path

    def job(self, out: str = "out", **steps: int) -> TrainJob:
        return TrainJob(
            images=(str(self.root / "images"),),
            teacher=EncoderSource("vgg19", str(self.root / "teacher.safetensors")),
            encoder=None,
            out=self.root / out,
            recipe="default",
            steps=steps,
            batch=2,
            threads=1,
            seed=0,
        )


@pytest.fixture
def place(tmp_path: Path) -> Place:
    pictures(tmp_path / "images", 4)
    teacher(tmp_path / "teacher.safetensors")
    return Place(tmp_path)


def ignore(cut: str, step: int, losses: dict[str, float]) -> None:
    """For a report that nobody wants."""


def alone(member: Member) -> None:
    member(0, 1, None)


def parts(weights: Path, *cuts: str) -> tuple[LoadedEncoder, list[LoadedDecoder]]:
    """What a training left, loaded as anybody would."""
    encoder = load_encoder(EncoderSource("mine", str(weights / "kt-vgg-2.encoder.safetensors")))
    return encoder, [load_decoder(encoder, "mine", cut, str(weights / f"kt-vgg-2.{cut}.safetensors")) for cut in cuts]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ---- which images ----


def test_images_whose_id_begins_with_the_held_out_digit_are_never_trained_on(tmp_path: Path) -> None:
    paths = pictures(tmp_path / "images", 64)
    held_out = {str(path) for path in paths if image_id(path.read_bytes()).startswith(HELD_OUT)}
    assert held_out
    assert set(training_uris([str(tmp_path / "images")])) == {str(path) for path in paths} - held_out


def test_an_image_that_is_there_twice_is_trained_on_once(tmp_path: Path) -> None:
    (path, *_) = pictures(tmp_path / "images", 1)
    (tmp_path / "images" / "copy.png").write_bytes(path.read_bytes())
    assert len(training_uris([str(tmp_path / "images")])) == 1


def test_nothing_left_to_train_on_is_said(tmp_path: Path, place: Place) -> None:
    paths = pictures(tmp_path / "more", 64)
    only = next(str(path) for path in paths if image_id(path.read_bytes()).startswith(HELD_OUT))
    with pytest.raises(UsageError, match="held-out"):
        train_autoencoder(replace(place.job(relu1_1=1), images=(only,)), ignore, alone)


# ---- crops ----


def test_crops_are_in_range_and_follow_from_the_seed(tmp_path: Path) -> None:
    uris = [str(path) for path in pictures(tmp_path / "images", 3)]
    first, again, other = (next(crops(uris, 2, 32, seed)) for seed in (1, 1, 2))
    assert first.shape == (2, 3, 32, 32)
    assert first.dtype == torch.float32
    assert 0 <= float(first.min()) <= float(first.max()) <= 1
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (2000, 3)])
def test_an_image_of_any_shape_can_be_cut_up(tmp_path: Path, shape: tuple[int, int]) -> None:
    Image.fromarray(np.full((*shape, 3), 128, dtype=np.uint8)).save(tmp_path / "odd.png")
    assert next(crops([str(tmp_path / "odd.png")], 4, 16, seed=0)).isfinite().all()


def test_only_so_many_crops_wait_and_a_batch_mixes_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crops_module, "BUFFER", 40)
    uris = [str(path) for path in pictures(tmp_path / "images", 12)]
    read: list[str] = []

    def noted(uri: str) -> bytes:
        read.append(uri)
        return read_input(uri)

    monkeypatch.setattr(crops_module, "read_input", noted)
    stream = crops(uris, 4, 16, seed=0)
    next(stream)
    assert len(read) == 3  # 16 crops an image: 40 that wait and 4 that were drawn
    for _ in range(47):
        next(stream)
    assert len(read) == 15  # 48 batches of 4, and 40 that wait: 232 crops of 14.5 images
    assert len(set(read[:12])) == 12  # every image once before any comes again


def test_a_batch_mixes_many_images(tmp_path: Path) -> None:
    # Each image is of one colour; crops of one colour are of one image. Colours are varied, so the images are counted
    # over a batch of as many crops as one image gives.
    for number in range(8):
        Image.fromarray(np.full((20, 20, 3), 30 * number, dtype=np.uint8)).save(tmp_path / f"{number}.png")
    batch = next(crops([str(tmp_path / f"{number}.png") for number in range(8)], 16, 8, seed=0))
    assert len({round(float(crop.mean()) * 50) for crop in batch}) > 4


def test_an_image_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    good = [str(path) for path in pictures(tmp_path / "images", 2)]
    (tmp_path / "broken.png").write_bytes(b"no image")
    with_broken = crops([good[0], str(tmp_path / "broken.png"), str(tmp_path / "absent.png"), good[1]], 8, 16, seed=0)
    for batch in islice(with_broken, 20):  # more than there are crops in an epoch
        assert batch.shape == (8, 3, 16, 16)


def test_images_of_which_none_can_be_read_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(RejectError):
        next(crops([str(tmp_path / "broken.png"), str(tmp_path / "absent.png")], 2, 16, seed=0))


# ---- a training ----


def test_a_training_leaves_weight_files_that_belong_together(place: Place, small: None) -> None:
    steps: list[tuple[str, int]] = []
    job = place.job(relu2_1=2, relu1_1=1)
    weights = train_autoencoder(job, lambda cut, step, losses: steps.append((cut, step)), alone)
    assert steps == [
        *[("relu2_1/stage0", 1), ("relu2_1/stage0", 2), ("relu2_1/stage1", 1), ("relu2_1/stage1", 2)],
        *[("relu1_1/stage0", 1), ("relu1_1/stage1", 1), ("relu1_1/stage1", 2)],
    ]
    for cut, stage in itertools.product(job.steps, ("stage0", "stage1")):
        assert (job.out / cut / stage / "state.json").exists()
    assert weights == job.out / "weights"
    encoder, (first, second) = parts(weights, "relu1_1", "relu2_1")
    assert encoder.network.codes == {"relu1_1": 4, "relu2_1": 12}
    assert encoder.network.details == {"relu2_1": 2}
    assert (first.network.channels, second.network.channels) == (4, 12 + 2)
    assert (first.network.details, second.network.details) == (0, 2)
    assert first.network.direct is None
    assert second.network.direct is not None
    image = torch.rand(1, 3, 16, 16)
    for cut, decoder in (("relu1_1", first), ("relu2_1", second)):
        restored = decoder.network.decode(encoder.network.encode(image, cut))
        assert restored.shape == image.shape
        assert restored.isfinite().all()
    assert set(files(weights)) == {
        "weights.json",
        *(f"kt-vgg-2.{part}.safetensors" for part in ("encoder", "relu1_1", "relu2_1")),
    }


def test_the_encoder_is_the_one_that_the_decoders_were_trained_for(place: Place, small: None) -> None:
    job = place.job(relu1_1=1)
    weights = train_autoencoder(job, ignore, alone)
    # Rounded once, before any decoder was trained.
    assert files(weights)["kt-vgg-2.encoder.safetensors"] == (job.out / "encoder.safetensors").read_bytes()


def test_the_same_training_gives_the_same_files(place: Place, small: None) -> None:
    first, again = (train_autoencoder(place.job(out, relu1_1=2), ignore, alone) for out in ("one", "two"))
    assert files(first) == files(again)


def breaks(where: str, when: int, cut: str, step: int, losses: dict[str, float]) -> None:
    """A report in the middle of which everything ends."""
    if (cut, step) == (where, when):
        raise ZeroDivisionError("the machine went down")


def test_a_training_that_was_interrupted_goes_on_from_its_last_state(place: Place, small: None) -> None:
    job, steps = place.job(relu1_1=4), []
    with pytest.raises(ZeroDivisionError):
        train_autoencoder(job, partial(breaks, "relu1_1/stage0", 3), alone)
    encoder = (job.out / "encoder.safetensors").stat().st_mtime_ns
    weights = train_autoencoder(job, lambda cut, step, losses: steps.append((cut[-6:], step)), alone)
    assert steps == [("stage0", 3), ("stage0", 4), ("stage1", 1), ("stage1", 2)]
    assert (job.out / "encoder.safetensors").stat().st_mtime_ns == encoder
    parts(weights, "relu1_1")


def test_a_training_that_was_interrupted_between_two_stages_ends_as_if_it_had_not_been(
    place: Place, small: None
) -> None:
    job, steps = place.job(relu1_1=2), []
    with pytest.raises(ZeroDivisionError):
        train_autoencoder(job, partial(breaks, "relu1_1/stage1", 1), alone)
    weights = train_autoencoder(job, lambda cut, step, losses: steps.append((cut[-6:], step)), alone)
    assert steps == [("stage1", 1), ("stage1", 2)]
    assert files(weights) == files(train_autoencoder(place.job("whole", relu1_1=2), ignore, alone))


def test_the_second_stage_goes_on_from_the_average_of_the_first(
    place: Place, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe_of(monkeypatch, TrainSettings(warmup_steps=1), TrainSettings(steps=1, learning_rate=0.0))
    job = place.job(relu1_1=2)
    train_autoencoder(job, ignore, alone)
    first, second = job.out / "relu1_1" / "stage0", job.out / "relu1_1" / "stage1"
    average, started = (
        load_file(path) for path in (first / "average-2-0.safetensors", second / "weights-1-0.safetensors")
    )
    left = load_file(first / "weights-2-0.safetensors")
    assert all(value.equal(started[name]) for name, value in average.items())
    assert not any(value.equal(left[name]) for name, value in average.items())
    assert all(started[name].equal(left[name]) for name in ("mean", "deviation"))


def test_each_stage_has_the_recipes_settings_and_what_the_job_says(place: Place, small: None) -> None:
    encoder = load_encoder(place.job().teacher)
    job = replace(place.job(relu1_1=7), seed=5)
    (first, one), (second, two) = job.stages(encoder, "relu1_1")
    assert (first, second) == (job.out / "relu1_1" / "stage0", job.out / "relu1_1" / "stage1")
    assert one == TrainSettings(f"default relu1_1 stage 0/ {encoder.sha256}", steps=7, warmup_steps=1, seed=5)
    assert two == TrainSettings(
        f"default relu1_1 stage 1/7 {encoder.sha256}", steps=2, warmup_steps=1, swapped=0.1, seed=5
    )


def test_swapped_latents_are_trained_with_only_where_there_are_few_cells(
    place: Place, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_module, "SWAPPED_AT", ("relu2_1",))
    job, steps = place.job(relu1_1=1, relu2_1=1), []
    weights = train_autoencoder(job, lambda cut, step, losses: steps.append(cut), alone)
    assert steps == ["relu1_1/stage0", "relu2_1/stage0", "relu2_1/stage1", "relu2_1/stage1"]
    parts(weights, "relu1_1", "relu2_1")


def test_a_training_that_is_done_only_writes_its_files_again(place: Place, small: None) -> None:
    first = files(train_autoencoder(place.job(relu1_1=2), ignore, alone))
    steps: list[int] = []
    again = train_autoencoder(place.job(relu1_1=2), lambda cut, step, losses: steps.append(step), alone)
    assert steps == []
    assert files(again) == first


def test_going_on_with_another_seed_is_refused(place: Place, small: None) -> None:
    train_autoencoder(place.job(relu1_1=1), ignore, alone)
    with pytest.raises(MismatchError, match=r"seed \(0 there, 1 here\)"):
        train_autoencoder(replace(place.job(relu1_1=1), seed=1), ignore, alone)


def test_going_on_with_another_encoder_of_the_same_width_is_refused(place: Place, small: None) -> None:
    train_autoencoder(place.job(relu1_1=1), ignore, alone)
    other = replace(place.job("other", relu1_1=1), seed=1)
    train_autoencoder(other, ignore, alone)
    given = EncoderSource("mine", str(other.out / "encoder.safetensors"))
    with pytest.raises(MismatchError, match=rf"subject \(.* there, .*{load_encoder(given).sha256} here\)\.$"):
        train_autoencoder(replace(place.job(relu1_1=1), encoder=given), ignore, alone)


def test_a_cut_that_the_encoder_does_not_reach_is_a_wrong_usage(place: Place) -> None:
    given = EncoderSource("vgg19", str(place.root / "teacher.safetensors"))
    with pytest.raises(UsageError, match=r"^The encoder ends at relu2_1, before relu3_1, relu4_1\.$"):
        train_autoencoder(replace(place.job(relu3_1=1, relu2_1=1, relu4_1=1), encoder=given), ignore, alone)


def test_a_teacher_that_ends_before_the_encoder_is_a_wrong_usage(place: Place) -> None:
    job = place.job(relu1_1=1)
    with pytest.raises(UsageError, match=r"^kt-vgg is fitted up to relu4_1; the teacher ends at relu2_1\.$"):
        train_autoencoder(job, ignore, alone)
    assert not job.out.exists()


def test_an_encoder_that_is_given_gets_decoders_and_stays_as_it_is(place: Place, small: None) -> None:
    given = EncoderSource("vgg19", str(place.root / "teacher.safetensors"))
    job = replace(place.job(relu2_1=1), encoder=given)
    weights = train_autoencoder(job, ignore, alone)
    assert not (job.out / "encoder.safetensors").exists()
    decoder = load_decoder(load_encoder(given), "vgg19", "relu2_1", str(weights / "kt-vgg-2.relu2_1.safetensors"))
    assert decoder.network.channels == 16


def test_every_worker_trains_on_crops_of_its_own_and_the_first_keeps_the_state(
    place: Place, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []

    def noted(uris: list[str], batch: int, size: int, seed: int) -> Iterator[Tensor]:
        seeds.append(seed)
        return crops(uris, batch, size, seed)

    monkeypatch.setattr(train_module, "crops", noted)
    job, steps = place.job(relu1_1=2), []

    def second_then_first(member: Member) -> None:
        for worker in (1, 0):
            seeds.clear()
            member(worker, 2, None)
            for stage in ("stage0", "stage1"):
                assert (job.out / "relu1_1" / stage / "state.json").exists() is (worker == 0)
            # First the crops that codes are standardised by, for all the same. Then each its own: of two workers that
            # start from the seed after the job's, 1, the first has seed 2 and the second 3.
            assert seeds == [0, 2 + worker, 2 + worker]

    train_autoencoder(job, lambda cut, step, losses: steps.append((cut[-6:], step)), second_then_first)
    assert steps == [("stage0", 1), ("stage0", 2), ("stage1", 1), ("stage1", 2)]  # of the first worker


# ---- metrics ----


def test_losses_of_each_stage_go_to_a_table_with_a_header(place: Place, small: None) -> None:
    said: list[str] = []
    job = place.job(relu1_1=4)
    train_autoencoder(job, Metrics(job.out, said.append), alone)
    (header, *rows), (second_header, *second_rows) = (
        list(csv.reader((job.out / "relu1_1" / stage / "metrics.csv").read_text(encoding="utf-8").splitlines()))
        for stage in ("stage0", "stage1")
    )
    assert header == ["step", "reconstruction"]
    assert second_header == ["step", "reconstruction", "swapped"]
    assert [row[0] for row in rows] == ["2", "4"]
    assert [row[0] for row in second_rows] == ["2"]
    assert all(float(value) > 0 for row in rows + second_rows for value in row)
    assert [line.split(" reconstruction ")[0] for line in said] == [
        "relu1_1/stage0 step 2",
        "relu1_1/stage0 step 4",
        "relu1_1/stage1 step 2",
    ]


def test_a_table_goes_on_below_its_one_header(tmp_path: Path) -> None:
    for step in (20, 30, 40):
        Metrics(tmp_path, lambda line: None)("relu1_1", step, {"reconstruction": 1 / step})
    text = (tmp_path / "relu1_1" / "metrics.csv").read_text(encoding="utf-8")
    assert text.split() == ["step,reconstruction", "20,0.05000", "40,0.02500"]  # every 20th step


def test_events_are_written_for_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    Metrics(tmp_path, lambda line: None)("relu1_1", 20, {"reconstruction": 0.5})
    (events,) = (tmp_path / "relu1_1" / "tensorboard").iterdir()
    assert b"reconstruction" in events.read_bytes()


# ---- options ----


def test_steps_are_read_from_their_option() -> None:
    assert parse_steps("relu3_1=2600,relu1_1=200") == {"relu3_1": 2600, "relu1_1": 200}
    assert set(parse_steps(STEPS)) == set(RECIPES["default"].blocks) == set(RECIPES["paper"].blocks)


@pytest.mark.parametrize(
    "text", ["", "relu3_1", "relu3_1=", "relu3_1=0", "relu3_1=-1", "relu3_1=1.5", "conv1_1=3", "relu1_1=2,,", "100"]
)
def test_steps_that_make_no_sense_are_a_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--steps got '.*'; give CUT=STEPS, CUT one of relu1_1, .*\.$"):
        parse_steps(text)


def test_every_recipe_gives_decoders_of_the_size_of_the_image() -> None:
    for recipe in RECIPES.values():
        for cut, blocks in recipe.blocks.items():
            doublings = sum(block == "up" or block.startswith("subpixel") for block in blocks)
            assert doublings == int(cut[4]) - 1, (cut, blocks)
