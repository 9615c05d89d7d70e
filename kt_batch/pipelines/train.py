"""Training kt-vgg from a collection of images: crops, the loop of models.training, and the weight files to ship."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from kt_batch.errors import RejectError, UsageError
from kt_batch.models.decoder import Decoder
from kt_batch.models.encoder import Encoder, Preprocess
from kt_batch.models.layers import VGG19_LAYERS, layers_up_to
from kt_batch.models.training import Student, TrainSettings, TrainState, train
from kt_batch.models.weights import EncoderSource, decoder_bytes, encoder_bytes, load_encoder
from kt_batch.pipelines.common import no_progress, plan_items
from kt_batch.store.images import decode
from kt_batch.store.inputs import list_inputs, read_input

LAYER = "relu3_1"
CHANNELS = {"conv1_1": 24, "conv1_2": 32, "conv2_1": 64, "conv2_2": 64, "conv3_1": 128}
BLOCKS = ("conv:96", "res", "res", "up", "conv:48", "conv:48", "up", "conv:24", "out")
HELD_OUT = "0"  # images whose id begins with this digit, one in sixteen, are never trained on
CROP = 128
KEPT_SIZE = 768  # long side at which images are kept in memory
SAVE_EVERY = 100


@dataclass(frozen=True)
class TrainJob:
    """What to train on and where the state goes."""

    images: tuple[str, ...]
    teacher: EncoderSource
    out: Path
    batch: int
    threads: int
    settings: TrainSettings


def train_autoencoder(job: TrainJob, report: Callable[[int, dict[str, float]], None]) -> Path:
    """Train, or go on from the state in `job.out`; returns the folder with `weights.json` and the weight files.

    Raises UsageError when no image is left to train on.
    """
    torch.set_num_threads(job.threads)
    uris = training_uris(job.images)
    if not uris:
        raise UsageError(f"None of {', '.join(job.images)} can be trained on: all are in the held-out sixteenth.")
    torch.manual_seed(job.settings.seed)
    teacher = load_encoder(job.teacher).network
    student = new_student(teacher)
    state = None
    if (job.out / "state.json").exists():
        state = TrainState.load(job.out, student, job.settings)

    def checkpoint(step: int, reached: TrainState) -> None:
        if step % SAVE_EVERY == 0 or step == job.settings.steps:
            reached.save(job.out, student, job.settings)

    seed = job.settings.seed + 1 + (state.step if state else 0)
    batches = crops(uris, job.batch, seed)
    final = train(student, teacher, batches, job.settings, report, checkpoint, state)
    student.load_state_dict(final.average)
    return export(student, job.out / "weights")


def training_uris(images: Sequence[str]) -> list[str]:
    """The images that may be trained on: all but those whose id begins with HELD_OUT."""
    items = plan_items(list_inputs(images), no_progress)
    return sorted({item.image_id: item.uri for item in items if not item.image_id.startswith(HELD_OUT)}.values())


def new_student(teacher: Encoder) -> Student:
    """Encoder and decoder from random initialisation, with heads to the teacher's channels."""
    encoder = Encoder(layers_up_to(VGG19_LAYERS, LAYER), CHANNELS, Preprocess())
    decoder = Decoder(CHANNELS["conv3_1"], BLOCKS)
    for module in [*encoder.modules(), *decoder.modules()]:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    decoder.calm_residuals()
    student = Student(encoder, decoder, {cut: teacher.channels_at(cut) for cut in ("relu1_1", "relu2_1", LAYER)})
    return student.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def crops(uris: Sequence[str], batch: int, seed: int) -> Iterator[Tensor]:
    """Endless batches `(batch, 3, CROP, CROP)`: random scale, place, mirror, contrast, saturation, channel order."""
    generator = random.Random(seed)  # noqa: S311 - for crops, not for secrets
    while True:
        stacked = torch.stack([_crop(_kept(generator.choice(uris)), generator) for _ in range(batch)])
        yield stacked.contiguous(memory_format=torch.channels_last)


@lru_cache(maxsize=2048)
def _kept(uri: str) -> Image.Image:
    """An image in memory; one that cannot be used is replaced by grey, which teaches little and breaks nothing."""
    try:
        pixels = decode(read_input(uri), KEPT_SIZE).pixels
    except RejectError:
        return Image.new("RGB", (CROP, CROP), (128, 128, 128))
    return Image.fromarray((pixels * 255).round().astype(np.uint8))


def _crop(image: Image.Image, generator: random.Random) -> Tensor:
    least = (CROP + 1) / min(image.size)
    scale = min(max(generator.uniform(0.5, 1.2) * 512 / max(image.size), least), max(1.2, least))
    size = (max(CROP, round(image.width * scale)), max(CROP, round(image.height * scale)))
    scaled = image.resize(size, Image.Resampling.BICUBIC if scale > 0.7 else Image.Resampling.BOX)
    x, y = generator.randint(0, scaled.width - CROP), generator.randint(0, scaled.height - CROP)
    pixels = np.asarray(scaled.crop((x, y, x + CROP, y + CROP)), dtype=np.float32) / 255
    crop = torch.from_numpy(pixels).permute(2, 0, 1)
    if generator.random() < 0.5:
        crop = crop.flip(2)
    if generator.random() < 0.5:
        crop = (crop - 0.5) * generator.uniform(0.7, 1.3) + 0.5 + generator.uniform(-0.1, 0.1)
    if generator.random() < 0.3:
        grey = crop.mean(0, keepdim=True)
        crop = grey + (crop - grey) * generator.uniform(0, 1.6)
    if generator.random() < 0.1:
        crop = crop[generator.sample(range(3), 3)]
    return crop.clamp(0, 1)


def export(student: Student, folder: Path) -> Path:
    """Write encoder and decoder as weight files with their manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    encoder = encoder_bytes(student.encoder, "kt-vgg")
    sha256 = hashlib.sha256(encoder).hexdigest()
    parts = {"encoder": encoder, LAYER: decoder_bytes(student.decoder, sha256, LAYER)}
    manifest = {}
    for part, data in parts.items():
        name = f"kt-vgg-1.{part}.safetensors"
        (folder / name).write_bytes(data)
        manifest[part] = {"file": name, "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "weights.json").write_text(json.dumps({"kt-vgg": manifest}, indent=1) + "\n")
    return folder
