"""Complete trainings from a folder of images to loadable weight files."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kt_batch.errors import MismatchError, UsageError
from kt_batch.models.layers import VGG19_LAYERS
from kt_batch.models.vgg19 import FEATURES
from kt_batch.models.weights import EncoderSource, LoadedDecoder, LoadedEncoder, load_decoder, load_encoder
from kt_batch.store.images.files import image_id
from kt_batch.training import autoencoder as train_module
from kt_batch.training import metrics as train_metrics
from kt_batch.training.autoencoder import Member, Stage, TrainJob, train_autoencoder, training_uris
from kt_batch.training.crops import crops
from kt_batch.training.metrics import Metrics
from kt_batch.training.recipes import HELD_OUT, RECIPES, Recipe
from kt_batch.training.settings import TrainSettings
from tests.support.tiny_training import pictures

LAYERS = VGG19_LAYERS[:7]  # up to relu2_1
TEACHERS = {"conv1_1": (6, 3), "conv1_2": (6, 6), "conv2_1": (16, 6)}
BLOCKS = {"relu1_1": ("conv:4", "out"), "relu2_1": ("conv:6", "res", "subpixel-out")}


def teacher(path: Path) -> EncoderSource:
    """Write a narrow VGG-19 up to relu2_1 with random weights."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, (out, into) in TEACHERS.items():
        state[f"features.{FEATURES[name]}.weight"] = 0.2 * torch.randn(out, into, 3, 3, generator=generator)
        state[f"features.{FEATURES[name]}.bias"] = torch.zeros(out)
    save_file(state, path)
    return EncoderSource("vgg19", str(path))


def recipe_of(
    monkeypatch: pytest.MonkeyPatch, *stages: TrainSettings, rates: Mapping[str, float] | None = None
) -> None:
    recipe = Recipe(BLOCKS, "relu", direct=("relu2_1",), stages=stages, rates=rates or {})
    monkeypatch.setattr(train_module, "RECIPES", {"default": recipe})


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every part of the training small."""
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
    """Ignore a report."""


class Steps(list[tuple[str, int]]):
    """A report that records stage and step."""

    def __call__(self, cut: str, step: int, losses: dict[str, float]) -> None:
        self.append((cut.split("/")[1], step))


def alone(member: Member) -> None:
    member(0, 1, None)


def parts(weights: Path, *cuts: str) -> tuple[LoadedEncoder, list[LoadedDecoder]]:
    """Load the weight files of a training."""
    encoder = load_encoder(EncoderSource("mine", str(weights / "kt-vgg-4.encoder.safetensors")))
    return encoder, [load_decoder(encoder, "mine", cut, str(weights / f"kt-vgg-4.{cut}.safetensors")) for cut in cuts]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ---- images ----


def test_held_out_images_are_never_trained_on(tmp_path: Path) -> None:
    paths = pictures(tmp_path / "images", 64)
    held_out = {str(path) for path in paths if image_id(path.read_bytes()).startswith(HELD_OUT)}
    assert held_out
    assert set(training_uris([str(tmp_path / "images")])) == {str(path) for path in paths} - held_out


def test_a_duplicate_image_is_trained_on_once(tmp_path: Path) -> None:
    (path, *_) = pictures(tmp_path / "images", 1)
    (tmp_path / "images" / "copy.png").write_bytes(path.read_bytes())
    assert len(training_uris([str(tmp_path / "images")])) == 1


def test_a_training_without_images_is_an_error(tmp_path: Path, place: Place) -> None:
    paths = pictures(tmp_path / "more", 64)
    only = next(str(path) for path in paths if image_id(path.read_bytes()).startswith(HELD_OUT))
    with pytest.raises(UsageError, match="held-out"):
        train_autoencoder(replace(place.job(relu1_1=1), images=(only,)), ignore, alone)


# ---- a training ----


def test_a_training_writes_matching_weight_files(place: Place, small: None) -> None:
    steps: list[tuple[str, int]] = []
    job = place.job(relu2_1=2, relu1_1=1)
    weights = train_autoencoder(job, lambda cut, step, losses: steps.append((cut, step)), alone)
    assert steps == [
        *[("relu2_1/stage0", 1), ("relu2_1/stage0", 2), ("relu2_1/stage1-after-2", 1), ("relu2_1/stage1-after-2", 2)],
        *[("relu1_1/stage0", 1), ("relu1_1/stage1-after-1", 1), ("relu1_1/stage1-after-1", 2)],
    ]
    assert all((job.out / stage / "state.json").exists() for stage, _ in steps)
    assert weights == job.out / "weights"
    encoder, (first, second) = parts(weights, "relu1_1", "relu2_1")
    assert encoder.network.codes == {"relu1_1": 4, "relu2_1": 12}
    assert encoder.network.details == {"relu2_1": 2}
    assert (first.network.channels, second.network.channels) == (4, 12 + 2)
    assert (first.network.details, second.network.details) == (0, 2)
    assert [decoder.network.direct is not None for decoder in (first, second)] == [False, True]
    image = torch.rand(1, 3, 16, 16)
    for cut, decoder in (("relu1_1", first), ("relu2_1", second)):
        restored = decoder.network.decode(encoder.network.encode(image, cut))
        assert restored.shape == image.shape
        assert restored.isfinite().all()
    assert set(files(weights)) == {
        "weights.json",
        *(f"kt-vgg-4.{part}.safetensors" for part in ("encoder", "relu1_1", "relu2_1")),
    }


def test_the_saved_encoder_is_that_of_the_decoders(place: Place, small: None) -> None:
    job = place.job(relu1_1=1)
    weights = train_autoencoder(job, ignore, alone)
    # Rounded once, before any decoder is trained.
    assert files(weights)["kt-vgg-4.encoder.safetensors"] == (job.out / "encoder.safetensors").read_bytes()


def test_equal_trainings_give_equal_files(place: Place, small: None) -> None:
    first, again = (train_autoencoder(place.job(out, relu1_1=2), ignore, alone) for out in ("one", "two"))
    assert files(first) == files(again)


def breaks(where: str, when: int, cut: str, step: int, losses: dict[str, float]) -> None:
    """Report, and fail at one step."""
    if (cut, step) == (where, when):
        raise ZeroDivisionError("the machine went down")


def test_an_interrupted_training_resumes_from_its_last_state(place: Place, small: None) -> None:
    job, steps = place.job(relu1_1=4), Steps()
    with pytest.raises(ZeroDivisionError):
        train_autoencoder(job, partial(breaks, "relu1_1/stage0", 3), alone)
    encoder = (job.out / "encoder.safetensors").stat().st_mtime_ns
    weights = train_autoencoder(job, steps, alone)
    assert steps == [("stage0", 3), ("stage0", 4), ("stage1-after-4", 1), ("stage1-after-4", 2)]
    assert (job.out / "encoder.safetensors").stat().st_mtime_ns == encoder
    parts(weights, "relu1_1")


def test_a_training_interrupted_between_two_stages_ends_as_an_undisturbed_one(place: Place, small: None) -> None:
    job, steps = place.job(relu1_1=2), Steps()
    with pytest.raises(ZeroDivisionError):
        train_autoencoder(job, partial(breaks, "relu1_1/stage1-after-2", 1), alone)
    weights = train_autoencoder(job, steps, alone)
    assert steps == [("stage1-after-2", 1), ("stage1-after-2", 2)]
    assert files(weights) == files(train_autoencoder(place.job("whole", relu1_1=2), ignore, alone))


def test_a_finished_training_with_more_steps_continues(place: Place, small: None) -> None:
    short, steps = place.job(relu1_1=2), Steps()
    before = files(train_autoencoder(short, ignore, alone))
    weights = train_autoencoder(replace(short, steps={"relu1_1": 4}), steps, alone)
    assert steps == [("stage0", 3), ("stage0", 4), ("stage1-after-4", 1), ("stage1-after-4", 2)]
    changed = {name for name, content in files(weights).items() if content != before[name]}
    assert changed == {"weights.json", "kt-vgg-4.relu1_1.safetensors"}
    # The second stage starts from the longer first stage, as if that had been interrupted at step 2.
    interrupted = place.job("interrupted", relu1_1=4)
    with pytest.raises(ZeroDivisionError):
        train_autoencoder(interrupted, partial(breaks, "relu1_1/stage0", 3), alone)
    assert before != files(weights) == files(train_autoencoder(interrupted, ignore, alone))


def test_the_second_stage_starts_from_the_average_of_the_first(
    place: Place, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe_of(monkeypatch, TrainSettings(warmup_steps=1), TrainSettings(steps=1, learning_rate=0.0))
    job = place.job(relu1_1=2)
    train_autoencoder(job, ignore, alone)
    first, second = job.out / "relu1_1" / "stage0", job.out / "relu1_1" / "stage1-after-2"
    average, started = (
        load_file(path) for path in (first / "average-2-0.safetensors", second / "weights-1-0.safetensors")
    )
    left = load_file(first / "weights-2-0.safetensors")
    assert all(value.equal(started[name]) for name, value in average.items())
    assert not any(value.equal(left[name]) for name, value in average.items())
    assert all(started[name].equal(left[name]) for name in ("mean", "deviation"))


def test_each_stage_has_the_settings_of_recipe_and_job(place: Place, small: None) -> None:
    encoder = load_encoder(place.job().teacher)
    job = replace(place.job(relu1_1=7), seed=5)
    one, two = (f"default relu1_1 {name} {encoder.sha256}" for name in ("stage0", "stage1-after-7"))
    assert job.stages(encoder, "relu1_1") == [
        Stage(job.out / "relu1_1/stage0", 0, TrainSettings(one, steps=7, warmup_steps=1, seed=5)),
        Stage(job.out / "relu1_1/stage1-after-7", 7, TrainSettings(two, steps=2, warmup_steps=1, swapped=0.1, seed=5)),
    ]


def test_a_recipe_may_set_the_learning_rate_of_the_first_stage_of_a_cut(
    place: Place, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe_of(monkeypatch, TrainSettings(), TrainSettings(steps=2), rates={"relu2_1": 0.004})
    encoder = load_encoder(place.job().teacher)
    job = place.job(relu1_1=3, relu2_1=3)
    rates = {cut: [stage.settings.learning_rate for stage in job.stages(encoder, cut)] for cut in job.steps}
    assert rates == {"relu1_1": [0.02, 0.02], "relu2_1": [0.004, 0.02]}


def test_a_third_stage_starts_after_the_steps_of_the_first_two(
    place: Place, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe_of(monkeypatch, TrainSettings(), TrainSettings(steps=2), TrainSettings(steps=3))
    stages = place.job(relu1_1=7).stages(load_encoder(place.job().teacher), "relu1_1")
    names = [(stage.folder.name, stage.steps_before) for stage in stages]
    assert names == [("stage0", 0), ("stage1-after-7", 7), ("stage2-after-9", 9)]


def test_swapped_latents_are_trained_only_with_few_cells(
    place: Place, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_module, "SWAPPED_AT", ("relu2_1",))
    job, steps = place.job(relu1_1=1, relu2_1=1), []
    weights = train_autoencoder(job, lambda cut, step, losses: steps.append(cut), alone)
    assert steps == ["relu1_1/stage0", "relu2_1/stage0", "relu2_1/stage1-after-1", "relu2_1/stage1-after-1"]
    parts(weights, "relu1_1", "relu2_1")


def test_a_finished_training_only_rewrites_its_files(place: Place, small: None) -> None:
    first = files(train_autoencoder(place.job(relu1_1=2), ignore, alone))
    steps: list[int] = []
    again = train_autoencoder(place.job(relu1_1=2), lambda cut, step, losses: steps.append(step), alone)
    assert steps == []
    assert files(again) == first


def test_resuming_with_another_seed_is_refused(place: Place, small: None) -> None:
    train_autoencoder(place.job(relu1_1=1), ignore, alone)
    with pytest.raises(MismatchError, match=r"seed \(0 there, 1 here\)"):
        train_autoencoder(replace(place.job(relu1_1=1), seed=1), ignore, alone)


def test_resuming_with_another_encoder_of_the_same_width_is_refused(place: Place, small: None) -> None:
    train_autoencoder(place.job(relu1_1=1), ignore, alone)
    other = replace(place.job("other", relu1_1=1), seed=1)
    train_autoencoder(other, ignore, alone)
    given = EncoderSource("mine", str(other.out / "encoder.safetensors"))
    with pytest.raises(MismatchError, match=rf"subject \(.* there, .*{load_encoder(given).sha256} here\)\.$"):
        train_autoencoder(replace(place.job(relu1_1=1), encoder=given), ignore, alone)


def test_a_cut_beyond_the_encoder_is_wrong_usage(place: Place) -> None:
    given = EncoderSource("vgg19", str(place.root / "teacher.safetensors"))
    with pytest.raises(UsageError, match=r"^The encoder ends at relu2_1, before relu3_1, relu4_1\.$"):
        train_autoencoder(replace(place.job(relu3_1=1, relu2_1=1, relu4_1=1), encoder=given), ignore, alone)


def test_a_teacher_that_ends_before_the_encoder_is_wrong_usage(place: Place) -> None:
    job = place.job(relu1_1=1)
    with pytest.raises(UsageError, match=r"^kt-vgg is fitted up to relu4_1; the teacher ends at relu2_1\.$"):
        train_autoencoder(job, ignore, alone)
    assert not job.out.exists()


def test_a_given_encoder_gets_decoders_and_stays_unchanged(place: Place, small: None) -> None:
    given = EncoderSource("vgg19", str(place.root / "teacher.safetensors"))
    job = replace(place.job(relu2_1=1), encoder=given)
    weights = train_autoencoder(job, ignore, alone)
    assert not (job.out / "encoder.safetensors").exists()
    decoder = load_decoder(load_encoder(given), "vgg19", "relu2_1", str(weights / "kt-vgg-4.relu2_1.safetensors"))
    assert decoder.network.channels == 16


def test_every_worker_trains_on_its_own_crops_and_the_first_saves_the_state(
    place: Place, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []

    def recorded(uris: list[str], batch: int, size: int, seed: int) -> Iterator[Tensor]:
        seeds.append(seed)
        return crops(uris, batch, size, seed)

    monkeypatch.setattr(train_module, "crops", recorded)
    job, steps = place.job(relu1_1=2), Steps()

    def second_then_first(member: Member) -> None:
        for worker in (1, 0):
            seeds.clear()
            member(worker, 2, None)
            for stage in ("stage0", "stage1-after-2"):
                assert (job.out / "relu1_1" / stage / "state.json").exists() is (worker == 0)
            # The crops for code statistics have the job's seed, 0, on both workers. Stages start at seed 1 + earlier
            # steps, times two workers, plus the worker: 2 and 3 in the first stage, 6 and 7 in the second.
            assert seeds == [0, 2 + worker, 6 + worker]

    train_autoencoder(job, steps, second_then_first)
    of_the_first = [("stage0", 1), ("stage0", 2), ("stage1-after-2", 1), ("stage1-after-2", 2)]
    assert steps == of_the_first


# ---- metrics ----


def test_losses_of_each_stage_are_written_to_a_table_with_a_header(place: Place, small: None) -> None:
    said: list[str] = []
    job = place.job(relu1_1=4)
    train_autoencoder(job, Metrics(job.out, said.append), alone)
    (header, *rows), (second_header, *second_rows) = (
        list(csv.reader((job.out / "relu1_1" / stage / "metrics.csv").read_text(encoding="utf-8").splitlines()))
        for stage in ("stage0", "stage1-after-4")
    )
    assert header == ["step", "reconstruction"]
    assert second_header == ["step", "reconstruction", "swapped"]
    assert [row[0] for row in rows] == ["2", "4"]
    assert [row[0] for row in second_rows] == ["2"]
    assert all(float(value) > 0 for row in rows + second_rows for value in row)
    assert [line.split(" reconstruction ")[0] for line in said] == [
        "relu1_1/stage0 step 2",
        "relu1_1/stage0 step 4",
        "relu1_1/stage1-after-4 step 2",
    ]


def test_the_table_of_an_interrupted_training_has_every_step_once(
    place: Place, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_metrics, "EVERY", 1)
    job = place.job(relu1_1=4)
    metrics = Metrics(job.out, lambda line: None)

    def report_and_fail(cut: str, step: int, losses: dict[str, float]) -> None:
        metrics(cut, step, losses)
        breaks("relu1_1/stage0", 3, cut, step, losses)

    with pytest.raises(ZeroDivisionError):
        train_autoencoder(job, report_and_fail, alone)
    train_autoencoder(job, metrics, alone)  # resumes at step 2
    rows = (job.out / "relu1_1/stage0/metrics.csv").read_text(encoding="utf-8").split()
    assert [row.split(",")[0] for row in rows] == ["step", "1", "2", "3", "4"]


def test_every_recipe_gives_decoders_with_the_output_size_of_the_image() -> None:
    for recipe in RECIPES.values():
        for cut, blocks in recipe.blocks.items():
            doublings = sum(block == "up" or block.startswith("subpixel") for block in blocks)
            assert doublings == int(cut[4]) - 1, (cut, blocks)
