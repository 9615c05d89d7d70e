"""Fit kt-vgg to a collection of images, train a decoder for each cut, and write the weight files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from kt_batch.errors import UsageError
from kt_batch.models.decoder import Decoder
from kt_batch.models.encoder import Encoder, Preprocess
from kt_batch.models.layers import VGG19_LAYERS
from kt_batch.models.precision import bfloat16_is_fast
from kt_batch.models.weights import EncoderSource, LoadedEncoder, encoder_bytes, load_encoder
from kt_batch.pipelines.inputs import find_images, plan_items
from kt_batch.pipelines.progress import no_progress
from kt_batch.store.manifests import Manifest
from kt_batch.store.targets import Inputs, refuse_inputs_inside, write_file
from kt_batch.training.crops import crops
from kt_batch.training.export import export
from kt_batch.training.fitting import fit
from kt_batch.training.loop import Student, Synchronise, train
from kt_batch.training.recipes import (
    CODES,
    CROP,
    DETAILS,
    FIT_BATCH,
    FIT_BATCHES,
    HELD_OUT,
    NAME,
    RECIPES,
    SWAPPED_AT,
    WIDTHS,
    Recipe,
)
from kt_batch.training.settings import TrainSettings
from kt_batch.training.state import TrainState

SAVE_EVERY = 100  # steps

Report = Callable[[str, int, dict[str, float]], None]
Member = Callable[[int, int, Synchronise | None], None]


@dataclass(frozen=True)
class TrainJob:
    """One training: its images, its networks, its length and its folder.

    Attributes:
        images: Paths, globs or URIs of the training images.
        teacher: The encoder that a new kt-vgg is fitted to.
        encoder: An encoder to train decoders for, unchanged. None: fit a new kt-vgg.
        out: Folder for state, metrics and weights. Every worker must see it.
        recipe: A name in RECIPES.
        steps: Steps of the first stage, for each cut that gets a decoder.
        batch: Crops per step and worker.
        manifests: Lists of further images.
    """

    images: tuple[str, ...]
    teacher: EncoderSource
    encoder: EncoderSource | None
    out: Path
    recipe: str
    steps: Mapping[str, int]
    batch: int
    threads: int
    seed: int
    manifests: Sequence[Manifest] = ()

    def stages(self, encoder: LoadedEncoder, cut: str) -> list[Stage]:
        """Return the stages of one decoder: those of the recipe, with this job's steps and seed."""
        recipe = RECIPES[self.recipe]
        stages: list[Stage] = []
        for shared in recipe.stages:
            if shared.swapped and cut not in SWAPPED_AT:
                continue
            steps_before = sum(stage.settings.steps for stage in stages)
            # A later stage depends on the length of those before it, so a longer training gets a new folder.
            name = f"stage{len(stages)}" + (f"-after-{steps_before}" if steps_before else "")
            subject = f"{self.recipe} {cut} {name} {encoder.sha256}"
            settings = replace(shared, subject=subject, seed=self.seed)
            if not stages:
                rate = recipe.rates.get(cut, shared.learning_rate)
                settings = replace(settings, steps=self.steps[cut], learning_rate=rate)
            stages.append(Stage(self.out / cut / name, steps_before, settings))
        return stages


@dataclass(frozen=True)
class Stage:
    """One stage of a decoder's training: the folder of its state, the steps of earlier stages, its settings."""

    folder: Path
    steps_before: int
    settings: TrainSettings


def train_autoencoder(job: TrainJob, report: Report, run_members: Callable[[Member], None]) -> Path:
    """Fit the encoder and train the decoders, or resume from the state in `job.out`.

    Args:
        job: The training.
        report: Called as `report("CUT/STAGE", step, losses)` after every step of the first worker.
        run_members: `run_members(member)` calls `member(worker, workers, synchronise)` once on every worker.

    Returns:
        The folder with `weights.json` and the weight files.

    Raises:
        UsageError: If no image is left to train on, the encoder ends before a cut, or an input lies in `job.out`.
    """
    torch.set_num_threads(job.threads)
    weights = [source.path for source in (job.teacher, job.encoder) if source]
    refuse_inputs_inside("--out", job.out, Inputs(job.images, weights))
    uris = training_uris(job.images, job.manifests)
    job = replace(job, manifests=())  # every worker gets the URIs
    encoder = job_encoder(job, uris)
    missing = [cut for cut in job.steps if cut not in encoder.network.layers]
    if missing:
        raise UsageError(f"The encoder ends at {encoder.network.layers[-1]}, before {', '.join(missing)}.")
    run_members(partial(train_decoders, job, uris, report))
    decoders = {cut: finished_decoder(job, encoder, cut) for cut in job.steps}
    return export(encoder, decoders, job.out / "weights")


def training_uris(images: Sequence[str], manifests: Sequence[Manifest] = ()) -> list[str]:
    """Return the URIs of all images outside the held-out set. Raises UsageError if there are none."""
    return divided_uris(images, manifests)[0]


def divided_uris(images: Sequence[str], manifests: Sequence[Manifest] = ()) -> tuple[list[str], list[str]]:
    """Return the sorted URIs of the images to train on, and those held out. Raises UsageError if all are held out."""
    items = plan_items(find_images(images, manifests, no_progress).inputs, no_progress)
    uris = {item.image_id: item.uri for item in items}
    held_out = {image: uri for image, uri in uris.items() if image.startswith(HELD_OUT)}
    trained_on = sorted(uri for image, uri in uris.items() if image not in held_out)
    if not trained_on:
        named = ", ".join([*images, *(manifest.place for manifest in manifests)])
        raise UsageError(f"None of {named} can be trained on: all are in the held-out sixteenth.")
    return trained_on, sorted(held_out.values())


def job_encoder(job: TrainJob, uris: Sequence[str]) -> LoadedEncoder:
    """Return the encoder to train decoders for: the given one, the one in `job.out`, or one fitted now.

    A fitted encoder is read back from its file, so that decoders are trained for the float16 weights that are shipped.
    """
    if job.encoder is not None:
        return load_encoder(job.encoder)
    path = job.out / "encoder.safetensors"
    if not path.exists():
        encoder = _fitted_encoder(job, uris)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, encoder_bytes(encoder, NAME))
    return load_encoder(EncoderSource(NAME, str(path)))


def _fitted_encoder(job: TrainJob, uris: Sequence[str]) -> Encoder:
    teacher = load_encoder(job.teacher).network
    if teacher.layers != VGG19_LAYERS:
        raise UsageError(f"kt-vgg is fitted up to {VGG19_LAYERS[-1]}; the teacher ends at {teacher.layers[-1]}.")
    torch.manual_seed(job.seed)
    encoder = Encoder(VGG19_LAYERS, WIDTHS, Preprocess(), codes=CODES, details=DETAILS)
    encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fit(encoder, teacher, _fit_batches(job, uris), torch.Generator().manual_seed(job.seed))
    return encoder


def _fit_batches(job: TrainJob, uris: Sequence[str]) -> list[Tensor]:
    """Return the crops that encoder, code statistics and direct convolutions are fitted to; the same on all workers."""
    return list(islice(crops(uris, FIT_BATCH, CROP, job.seed), FIT_BATCHES))


def train_decoders(
    job: TrainJob, uris: Sequence[str], report: Report, worker: int, workers: int, synchronise: Synchronise | None
) -> None:
    """Train every decoder in turn on crops of this worker's own. Worker 0 reports and saves the state."""
    torch.set_num_threads(job.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder = job_encoder(job, uris)
    for cut in job.steps:
        student = new_student(job, encoder, cut, uris).to(device)
        for stage in job.stages(encoder, cut):
            folder, settings = stage.folder, stage.settings
            state = None
            if (folder / "state.json").exists():
                state = TrainState.load(folder, student.state_tensors(), settings)
            seed = (job.seed + 1 + stage.steps_before + (state.step if state else 0)) * workers + worker
            batches = (batch.to(device) for batch in crops(uris, job.batch, CROP, seed))
            report_losses = partial(report, f"{cut}/{folder.name}") if worker == 0 else _no_report
            save = partial(_save_state, student, settings, folder) if worker == 0 else _no_save
            bfloat16 = bfloat16_is_fast(device)
            reached = train(student, batches, settings, report_losses, save, state, synchronise, bfloat16)
            student.load_state_dict(reached.average, strict=False)


def _save_state(student: Student, settings: TrainSettings, folder: Path, step: int, state: TrainState) -> None:
    if step % SAVE_EVERY == 0 or step == settings.steps:
        state.save(folder, student.state_tensors(), settings)


def _no_save(step: int, state: TrainState) -> None:
    """Save nothing: the checkpoint callback of all workers but the first."""


def _no_report(step: int, losses: dict[str, float]) -> None:
    """Report nothing: the report callback of all workers but the first."""


def new_student(job: TrainJob, encoder: LoadedEncoder, cut: str, uris: Sequence[str]) -> Student:
    """Return the encoder with a random decoder; code statistics and direct convolution are fitted to crops."""
    torch.manual_seed(job.seed)
    student = _random_student(job, encoder, cut)
    student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = _fit_batches(job, uris)
    student.standardise(torch.cat(images[:8]))
    student.fit_direct(images)
    return student


def finished_decoder(job: TrainJob, encoder: LoadedEncoder, cut: str) -> Decoder:
    """Return the decoder of a finished training, with the averaged weights of its last stage."""
    student = _random_student(job, encoder, cut)
    last = job.stages(encoder, cut)[-1]
    state = TrainState.load(last.folder, student.state_tensors(), last.settings)
    student.load_state_dict(state.average, strict=False)
    return student.shipped_decoder()


def _random_student(job: TrainJob, encoder: LoadedEncoder, cut: str) -> Student:
    decoder = new_decoder(encoder.network.code_channels(cut), RECIPES[job.recipe], cut)
    return Student(encoder.network, decoder, cut)


def new_decoder(channels: int, recipe: Recipe, cut: str) -> Decoder:
    """Return a decoder with random weights (Kaiming normal)."""
    decoder = Decoder(channels, recipe.blocks[cut], recipe.activation, direct=cut in recipe.direct)
    for module in decoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(cast("Tensor", module.bias))
    decoder.calm_residuals()
    return decoder
