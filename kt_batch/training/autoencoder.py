"""Training kt-vgg from a collection of images: the encoder's fit, a decoder for each cut point, the files to ship."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from kt_batch.errors import UsageError
from kt_batch.models.decoder import Decoder
from kt_batch.models.encoder import Encoder, Preprocess, Widths
from kt_batch.models.layers import VGG19_LAYERS
from kt_batch.models.precision import bfloat16_is_fast
from kt_batch.models.weights import EncoderSource, LoadedEncoder, decoder_bytes, encoder_bytes, load_encoder
from kt_batch.pipelines.inputs import plan_items
from kt_batch.pipelines.progress import no_progress
from kt_batch.store.inputs import list_inputs
from kt_batch.training.crops import crops
from kt_batch.training.fitting import fit
from kt_batch.training.loop import Student, Synchronise, TrainSettings, train
from kt_batch.training.state import TrainState

NAME = "kt-vgg"
VERSION = "kt-vgg-4"
WIDTHS: dict[str, Widths] = {
    "conv1_1": (64,), "conv1_2": (16, 64),
    "conv2_1": (40, 128), "conv2_2": (64, 128),
    "conv3_1": (96, 256), "conv3_2": (64, 256), "conv3_3": (64, 256), "conv3_4": (64, 256),
    "conv4_1": (96, 512),
}  # fmt: skip
CODES = {"relu1_1": 24, "relu2_1": 64, "relu3_1": 144, "relu4_1": 192}
DETAILS = {"relu3_1": 8, "relu4_1": 12}
HELD_OUT = "0"  # images whose id begins with this digit, one in sixteen, are never trained on
SWAPPED_AT = ("relu3_1", "relu4_1")  # nearer to the image a crop has too many cells to match in a step
CROP = 128
FIT_BATCHES = 32
FIT_BATCH = 8
SAVE_EVERY = 100

Report = Callable[[str, int, dict[str, float]], None]
Member = Callable[[int, int, Synchronise | None], None]


@dataclass(frozen=True)
class Recipe:
    """How decoders are made and trained: the blocks for each cut, and the stages of training that all cuts share.

    rates: learning rates of the first stage where the settings' own is too large. At 0.02 the long ladder of relu4_1
    went astray after some 200 steps: activations of thousands, nine channels of ten dead.

    The job's steps are those of the first stage; a later one goes on from its averaged weights.
    """

    blocks: Mapping[str, tuple[str, ...]]
    activation: str
    direct: tuple[str, ...]
    stages: tuple[TrainSettings, ...]
    rates: Mapping[str, float] = field(default_factory=dict)


RECIPES = {
    "default": Recipe(
        {
            "relu1_1": ("conv:24", "out"),
            "relu2_1": ("conv:64", "res", "conv:32", "subpixel-out"),
            "relu3_1": ("conv:64", "res", "res", "subpixel:32", "conv:32", "subpixel-out"),
            "relu4_1": ("conv:192", "res", "subpixel:96", "res", "up", "conv:48", "up", "conv:24", "out"),
        },
        "relu",
        ("relu1_1", "relu2_1"),
        (
            TrainSettings(),
            TrainSettings(steps=100, learning_rate=3e-3, warmup_steps=5, ema_decay=0.9, swapped=0.1, lattice=1.0),
        ),
        {"relu4_1": 0.01},
    ),
    # Section 3.6: five residual blocks, resize + convolution, SELU, the last linear with a bias; eq. 8 alone.
    "paper": Recipe(
        {
            "relu1_1": ("conv:64", *["res"] * 5, "out"),
            "relu2_1": ("conv:64", *["res"] * 5, "up", "conv:64", "out"),
            "relu3_1": ("conv:128", *["res"] * 5, "up", "conv:64", "up", "conv:32", "out"),
            "relu4_1": ("conv:256", *["res"] * 5, "up", "conv:128", "up", "conv:64", "up", "conv:32", "out"),
        },
        "selu",
        (),
        (TrainSettings(),),
    ),
}


@dataclass(frozen=True)
class TrainJob:
    """What to train on, how, and where the state goes: a folder that every worker sees.

    encoder: an encoder to train decoders for, as it is; None: fit a new kt-vgg to `teacher`.
    steps: of each cut that is to have a decoder.
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

    def stages(self, encoder: LoadedEncoder, cut: str) -> list[Stage]:
        """The stages of a decoder: the recipe's, with this job's steps and seed."""
        found: list[Stage] = []
        for settings in RECIPES[self.recipe].stages:
            if settings.swapped and cut not in SWAPPED_AT:
                continue
            before = sum(stage.settings.steps for stage in found)
            # An end is the end of one length: a training that is made longer has another one, in a folder of its own.
            name = f"stage{len(found)}" + (f"-after-{before}" if before else "")
            subject = f"{self.recipe} {cut} {name} {encoder.sha256}"
            whole = replace(settings, subject=subject, seed=self.seed)
            if not found:
                rate = RECIPES[self.recipe].rates.get(cut, settings.learning_rate)
                whole = replace(whole, steps=self.steps[cut], learning_rate=rate)
            found.append(Stage(self.out / cut / name, before, whole))
        return found


@dataclass(frozen=True)
class Stage:
    """One stage of a decoder's training: where its state goes, the steps of the stages before it, its settings."""

    folder: Path
    before: int
    settings: TrainSettings


def train_autoencoder(job: TrainJob, report: Report, run_members: Callable[[Member], None]) -> Path:
    """Fit the encoder, train the decoders, or go on from the state in `job.out`.

    `run_members(member)` calls `member(worker, workers, synchronise)` once for every worker. Returns the folder with
    `weights.json` and the weight files. Raises UsageError when no image is left to train on.
    """
    torch.set_num_threads(job.threads)
    uris = training_uris(job.images)
    encoder = job_encoder(job, uris)
    missing = [cut for cut in job.steps if cut not in encoder.network.layers]
    if missing:
        raise UsageError(f"The encoder ends at {encoder.network.layers[-1]}, before {', '.join(missing)}.")
    run_members(partial(train_decoders, job, uris, report))
    decoders = {cut: finished_decoder(job, encoder, cut) for cut in job.steps}
    return export(encoder, decoders, job.out / "weights")


def job_encoder(job: TrainJob, uris: Sequence[str]) -> LoadedEncoder:
    """The encoder the decoders are for: given, of an earlier call in `job.out`, or fitted now.

    A fitted one is as it is shipped: its weights are rounded to float16 before any decoder is trained for it.
    """
    if job.encoder is not None:
        return load_encoder(job.encoder)
    path = job.out / "encoder.safetensors"
    if not path.exists():
        teacher = load_encoder(job.teacher).network
        if teacher.layers != VGG19_LAYERS:
            raise UsageError(f"kt-vgg is fitted up to {VGG19_LAYERS[-1]}; the teacher ends at {teacher.layers[-1]}.")
        torch.manual_seed(job.seed)
        encoder = Encoder(VGG19_LAYERS, WIDTHS, Preprocess(), codes=CODES, details=DETAILS)
        encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        batches = list(islice(crops(uris, FIT_BATCH, CROP, job.seed), FIT_BATCHES))
        fit(encoder, teacher, batches, torch.Generator().manual_seed(job.seed))
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(encoder_bytes(encoder, NAME))
        temporary.replace(path)
    return load_encoder(EncoderSource(NAME, str(path)))


def train_decoders(
    job: TrainJob, uris: Sequence[str], report: Report, worker: int, workers: int, synchronise: Synchronise | None
) -> None:
    """What one worker of `workers` does: every decoder in turn, on crops of its own. The first keeps the state."""
    torch.set_num_threads(job.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder = job_encoder(job, uris)
    for cut in job.steps:
        student = new_student(job, encoder, cut, uris).to(device)
        for stage in job.stages(encoder, cut):
            folder, settings = stage.folder, stage.settings
            state = TrainState.load(folder, student.kept(), settings) if (folder / "state.json").exists() else None
            seed = (job.seed + 1 + stage.before + (state.step if state else 0)) * workers + worker
            batches = (batch.to(device) for batch in crops(uris, job.batch, CROP, seed))
            log_summary = partial(report, f"{cut}/{folder.name}") if worker == 0 else _silent
            keep = partial(_keep, student, settings, folder) if worker == 0 else _forget
            reached = train(student, batches, settings, log_summary, keep, state, synchronise, bfloat16_is_fast(device))
            student.load_state_dict(reached.average, strict=False)


def _keep(student: Student, settings: TrainSettings, folder: Path, step: int, reached: TrainState) -> None:
    if step % SAVE_EVERY == 0 or step == settings.steps:
        reached.save(folder, student.kept(), settings)


def _forget(step: int, reached: TrainState) -> None:
    """For a worker that is not the first."""


def _silent(step: int, losses: dict[str, float]) -> None:
    """What a worker reports that is not the first."""


def new_student(job: TrainJob, encoder: LoadedEncoder, cut: str, uris: Sequence[str]) -> Student:
    """Encoder and random decoder; the codes' mean and deviation are those of the crops the encoder was fitted to."""
    torch.manual_seed(job.seed)
    recipe = RECIPES[job.recipe]
    decoder = new_decoder(encoder.network.code_channels(cut), recipe, cut)
    student = Student(encoder.network, decoder, cut)
    student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = list(islice(crops(uris, FIT_BATCH, CROP, job.seed), FIT_BATCHES))
    student.standardise(torch.cat(images[:8]))
    student.fit_direct(images)
    return student


def finished_decoder(job: TrainJob, encoder: LoadedEncoder, cut: str) -> Decoder:
    """The decoder whose training in `job.out / cut` has ended, its weights averaged over the last steps."""
    recipe = RECIPES[job.recipe]
    decoder = new_decoder(encoder.network.code_channels(cut), recipe, cut)
    student = Student(encoder.network, decoder, cut)
    last = job.stages(encoder, cut)[-1]
    state = TrainState.load(last.folder, student.kept(), last.settings)
    student.load_state_dict(state.average, strict=False)
    return student.shipped_decoder()


def training_uris(images: Sequence[str]) -> list[str]:
    """The images that may be trained on: all but those whose id begins with HELD_OUT. Raises UsageError for none."""
    items = plan_items(list_inputs(images), no_progress)
    uris = sorted({item.image_id: item.uri for item in items if not item.image_id.startswith(HELD_OUT)}.values())
    if not uris:
        raise UsageError(f"None of {', '.join(images)} can be trained on: all are in the held-out sixteenth.")
    return uris


def new_decoder(channels: int, recipe: Recipe, cut: str) -> Decoder:
    """A decoder from random initialisation (Kaiming normal)."""
    decoder = Decoder(channels, recipe.blocks[cut], recipe.activation, direct=cut in recipe.direct)
    for module in decoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(cast("Tensor", module.bias))
    decoder.calm_residuals()
    return decoder


def export(encoder: LoadedEncoder, decoders: dict[str, Decoder], folder: Path) -> Path:
    """Write encoder and decoders as weight files with their manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"encoder": encoder_bytes(encoder.network, NAME)}
    parts |= {cut: decoder_bytes(decoder, encoder.sha256, cut) for cut, decoder in sorted(decoders.items())}
    manifest = {}
    for part, data in parts.items():
        name = f"{VERSION}.{part}.safetensors"
        (folder / name).write_bytes(data)
        manifest[part] = {"file": name, "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "weights.json").write_text(json.dumps({NAME: manifest}, indent=1) + "\n")
    return folder
