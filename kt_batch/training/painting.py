"""Train shipped decoders on for the method painting, and write them as weight files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from kt_batch.methods.painting.levels import LAYERS
from kt_batch.models.decoder import Decoder
from kt_batch.models.weights import EncoderSource, LoadedEncoder, load_decoder, load_encoder
from kt_batch.store.manifests import Manifest
from kt_batch.store.targets import Inputs, refuse_inputs_inside
from kt_batch.training.autoencoder import (
    STANDARDISED,
    Member,
    Report,
    Stage,
    best_device,
    fit_crops,
    train_stage,
    training_uris,
)
from kt_batch.training.crops import crops
from kt_batch.training.export import export_painting
from kt_batch.training.loop import Student, Synchronise
from kt_batch.training.recipes import TRANSFERRED, TRANSFERRED_CROP
from kt_batch.training.state import TrainState
from kt_batch.training.transferred import Lesson, lesson_losses, lessons, reused


@dataclass(frozen=True)
class PaintingJob:
    """One training of decoders for features that are transferred from paintings to photographs.

    Attributes:
        photographs: Paths, globs or URIs.
        paintings: Paths, globs or URIs.
        encoder: The encoder. Its shipped decoders are where the training starts.
        out: Folder for state, metrics and weights. Every worker must see it.
        steps: For each cut that is trained, in this order. A cut gets the pictures of the coarser ones trained before.
        batch: Pairs of a photograph and a painting per step and worker.
        manifests: Lists of further photographs.
    """

    photographs: tuple[str, ...]
    paintings: tuple[str, ...]
    encoder: EncoderSource
    out: Path
    steps: Mapping[str, int]
    batch: int
    threads: int
    seed: int
    manifests: Sequence[Manifest] = ()

    def stage(self, encoder: LoadedEncoder, cut: str) -> Stage:
        """Return the one stage of a decoder's training."""
        subject = f"transferred {cut} {encoder.sha256}"
        settings = replace(TRANSFERRED, subject=subject, steps=self.steps[cut], seed=self.seed)
        return Stage(self.out / cut / "transferred", 0, settings)


def train_for_painting(job: PaintingJob, report: Report, run_members: Callable[[Member], None]) -> Path:
    """Train the decoders, or resume from the state in `job.out`.

    Args:
        job: The training.
        report: Called as `report("CUT/STAGE", step, losses)` after every step of the first worker.
        run_members: `run_members(member)` calls `member(worker, workers, synchronise)` once on every worker.

    Returns:
        The folder with `weights.json` and the weight files.

    Raises:
        UsageError: If no image is left to train on, no decoder is shipped, or an input lies in `job.out`.
    """
    torch.set_num_threads(job.threads)
    refuse_inputs_inside("--out", job.out, Inputs([*job.photographs, *job.paintings], []))
    encoder, shipped = _shipped(job)
    photographs, paintings = training_uris(job.photographs, job.manifests), training_uris(job.paintings)
    job = replace(job, manifests=())  # every worker gets the URIs
    run_members(partial(train_members, job, photographs, paintings, report))
    finished = {cut: finished_decoder(job, encoder, shipped[cut], cut) for cut in job.steps}
    return export_painting(encoder, finished, job.out / "weights")


def _shipped(job: PaintingJob) -> tuple[LoadedEncoder, dict[str, Decoder]]:
    encoder = load_encoder(job.encoder)
    return encoder, {cut: load_decoder(encoder, job.encoder.name, cut, None).network for cut in LAYERS}


def train_members(
    job: PaintingJob,
    photographs: Sequence[str],
    paintings: Sequence[str],
    report: Report,
    worker: int,
    workers: int,
    synchronise: Synchronise | None,
) -> None:
    """Train every decoder in turn on pairs of this worker's own. Worker 0 reports and saves the state."""
    torch.set_num_threads(job.threads)
    device = best_device()
    encoder, decoders = _shipped(job)
    decoders = {cut: decoder.to(device) for cut, decoder in decoders.items()}
    images = torch.cat(fit_crops([*photographs, *paintings], STANDARDISED, job.seed))
    for cut in job.steps:
        student = new_student(encoder, decoders[cut], cut)
        student.standardise(images.to(device))
        student.start_from(decoders[cut])

        def batches(seed: int, cut: str = cut) -> Iterator[Lesson]:
            pairs = (
                (batch.to(device) for batch in crops(uris, job.batch, TRANSFERRED_CROP, seed))
                for uris in (photographs, paintings)
            )
            return reused(lessons(encoder.network, decoders, cut, *pairs), seed)

        train_stage(student, job.stage(encoder, cut), batches, lesson_losses, report, worker, workers, synchronise)
        decoders[cut] = student.shipped_decoder().to(device).requires_grad_(False)


def new_student(encoder: LoadedEncoder, shipped: Decoder, cut: str) -> Student:
    """Return the encoder and a decoder like the shipped one, on its device, with random weights."""
    direct, width = shipped.direct is not None, shipped.channels - shipped.details
    student = Student(encoder.network, Decoder(width, shipped.blocks, shipped.activation, direct=direct), cut)
    student.to(next(shipped.parameters()).device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return student


def finished_decoder(job: PaintingJob, encoder: LoadedEncoder, shipped: Decoder, cut: str) -> Decoder:
    """Return the decoder of a finished training, with its averaged weights."""
    student, stage = new_student(encoder, shipped, cut), job.stage(encoder, cut)
    state = TrainState.load(stage.folder, student.state_tensors(), stage.settings)
    student.load_state_dict(state.average, strict=False)
    return student.shipped_decoder()
