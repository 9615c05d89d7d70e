"""Train the network of StyleBank with a bank for each style, or add banks to a network that stays as it is."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from kt_batch.errors import KtBatchError, RejectError, UsageError
from kt_batch.models.banks import LoadedNetwork, bank_bytes, content_id, load_network, network_bytes
from kt_batch.models.stylebank import AutoEncoder
from kt_batch.models.weights import EncoderSource, load_encoder
from kt_batch.pipelines.inputs import find_images
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.translate.style_images import StyleImage, StyleImages, identify_styles
from kt_batch.store.bank_files import BANK_SUFFIX, BankHeader, network_name
from kt_batch.store.manifests import Manifest
from kt_batch.store.targets import Inputs, refuse_inputs_inside, write_file
from kt_batch.training.autoencoder import Member, Report, divided_uris
from kt_batch.training.loop import Synchronise
from kt_batch.training.state import TrainState
from kt_batch.training.stylebank.added import AddedState, PreparedBatches, train_added
from kt_batch.training.stylebank.batches import Batches, centre_square
from kt_batch.training.stylebank.loop import BankState, Trainee, train
from kt_batch.training.stylebank.losses import Perceptual
from kt_batch.training.stylebank.samples import losses_of, pictures_of, save_samples
from kt_batch.training.stylebank.settings import BankSettings

SAVE_EVERY = 100  # steps
SAMPLES = 3  # photographs of a sheet
MOST_STYLES = 1000

State = TypeVar("State", bound=TrainState)

_NO_NAME = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True)
class BankJob:
    """One training: its images, its styles, its networks and its folder.

    Attributes:
        images: Paths, globs or URIs of the photographs.
        styles: The same of the style images; each is a style.
        encoder: The network of the losses.
        add_to: The file of a network that stays as it is; None: a new one is trained with the banks.
        out: Folder for state, samples, metrics and weights. Every worker must see it.
        settings: Those that change the weights; their subject is set here.
        sample_every: Steps between two sheets of samples.
        manifests: Lists of further photographs.
    """

    images: tuple[str, ...]
    styles: tuple[str, ...]
    encoder: EncoderSource
    add_to: str | None
    out: Path
    settings: BankSettings
    threads: int
    sample_every: int = 500
    manifests: Sequence[Manifest] = ()


@dataclass(frozen=True)
class Data:
    """The data that all workers read.

    photographs: URIs to train on. samples: URIs of the sheet. styles: The style images.
    """

    photographs: tuple[str, ...]
    samples: tuple[str, ...]
    styles: tuple[StyleImage, ...]


def train_banks(job: BankJob, report: Report, run_members: Callable[[Member], None]) -> Path:
    """Train the banks, or resume from the state in `job.out`.

    Args:
        job: The training.
        report: Called as `report("banks", step, losses)` after every step of the first worker.
        run_members: `run_members(member)` calls `member(worker, workers, synchronise)` once on every worker.

    Returns:
        The folder with the network and the banks.

    Raises:
        UsageError: No photograph is left to train on, there are too many styles, or an input lies in `job.out`.
        RejectError: A style image cannot be used.
        WeightsError: The network cannot be loaded.
    """
    torch.set_num_threads(job.threads)
    weights = [job.encoder.path, job.add_to]
    refuse_inputs_inside("--out", job.out, Inputs([*job.images, *job.styles], weights))
    data, job = data_of(job), replace(job, manifests=())  # every worker gets the URIs
    job = replace(job, settings=replace(job.settings, subject=_subject(job, data)))
    run_members(partial(train_member, job, data, report))
    return export(job, data)


def data_of(job: BankJob) -> Data:
    """Return the photographs, those of the samples, and the style images. Raises as `train_banks` does."""
    trained_on, held_out = divided_uris(job.images, job.manifests)
    styles = identify_styles(find_images(job.styles, (), no_progress).inputs)
    if not 1 <= len(styles) <= MOST_STYLES:
        raise UsageError(f"--style names {len(styles)} images; allowed are 1 to {MOST_STYLES}.")
    return Data(tuple(trained_on), tuple((held_out or trained_on)[:SAMPLES]), styles)


def bank_names(styles: Sequence[StyleImage]) -> dict[str, str]:
    """Return the name of each style by image id: that of its file, with the id where several files have one name."""
    stems = {style.image_id: _stem(style.uri) for style in styles}
    several = {stem for stem in stems.values() if list(stems.values()).count(stem) > 1}
    return {image: f"{stem}-{image[:8]}" if stem in several else stem for image, stem in stems.items()}


def _stem(uri: str) -> str:
    name = uri.rstrip("/").rsplit("/", 1)[-1].rsplit(".", 1)[0]
    return _NO_NAME.sub("-", name).strip("-")[:80] or "style"


def _subject(job: BankJob, data: Data) -> str:
    network = load_network(Path(job.add_to)).id if job.add_to else "new"
    styles = " ".join(style.image_id for style in data.styles)
    return f"{network} {hashlib.sha256(styles.encode()).hexdigest()[:16]} {load_encoder(job.encoder).sha256[:16]}"


# ---- on every worker -------------------------------------------------------------------------------------------------


def new_trainee(job: BankJob, data: Data) -> Trainee:
    """Return the network, new or given, with random banks."""
    if job.add_to is not None:
        network, settings = load_network(Path(job.add_to)).network, job.settings
    else:
        torch.manual_seed(job.settings.seed)
        network, settings = AutoEncoder(job.settings.channels), job.settings
    names = [style.image_id for style in data.styles]
    return Trainee(network, names, settings, frozen=job.add_to is not None)


def new_perceptual(job: BankJob, data: Data, device: str) -> Perceptual:
    """Return the losses of the styles."""
    images = StyleImages(data.styles, job.settings.style_size, 8)
    encoder = load_encoder(job.encoder).network.to(device)
    return Perceptual(encoder, [images[style.image_id].to(device) for style in data.styles])


def train_member(
    job: BankJob,
    data: Data,
    report: Report,
    worker: int,
    _workers: int,
    synchronise: Synchronise | None,
) -> None:
    """Train on crops of this worker's own. Worker 0 reports, saves the state and writes samples."""
    torch.set_num_threads(job.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    trainee = new_trainee(job, data).to(device)
    perceptual = new_perceptual(job, data, device)
    said = partial(report, "banks") if worker == 0 else _nothing
    save = (
        _Checkpoint(job, trainee, perceptual, sample_images(data, job.settings.size).to(device))
        if worker == 0
        else _nothing
    )
    train_with(job, data, trainee, perceptual, said, save, worker, synchronise)


def train_with(
    job: BankJob,
    data: Data,
    trainee: Trainee,
    perceptual: Perceptual,
    report: Callable[[int, dict[str, float]], None],
    checkpoint: Callable[[int, TrainState], None],
    worker: int = 0,
    synchronise: Synchronise | None = None,
) -> None:
    """Train banks and network, or banks alone, from the state in `job.out` or from the start."""
    settings = job.settings
    batches = Batches(data.photographs, settings.size, settings.batch, len(data.styles), settings.seed, worker)
    device = trainee.stylising_norm.device

    def crops_at(step: int) -> Tensor:
        return batches.crops(step).to(device)

    if trainee.frozen:
        prepared = PreparedBatches(trainee, perceptual, crops_at, settings.batch)
        added = saved_state(AddedState, job, trainee)
        train_added(trainee, perceptual, prepared, batches.styles, settings, report, checkpoint, added, synchronise)
    else:
        joint = saved_state(BankState, job, trainee)
        train(
            trainee,
            perceptual,
            lambda step: (crops_at(step), batches.styles(step)),
            settings,
            report,
            checkpoint,
            joint,
            synchronise,
        )


def saved_state(kind: type[State], job: BankJob, trainee: Trainee) -> State | None:
    """Return the state in `job.out`, with the tensors of the trainee set to it; None: there is none."""
    if not (job.out / "state" / "state.json").exists():
        return None
    return kind.load(job.out / "state", trainee.state_tensors(), job.settings)


def _nothing(step: int, what: object) -> None:
    """Report and save nothing: the callbacks of all workers but the first."""


class _Checkpoint:
    """Saves the state every SAVE_EVERY steps and samples every `sample_every` steps, and both at the end."""

    def __init__(self, job: BankJob, trainee: Trainee, perceptual: Perceptual, photographs: Tensor) -> None:
        self._job, self._trainee, self._perceptual, self._photographs = job, trainee, perceptual, photographs

    def __call__(self, step: int, state: TrainState) -> None:
        job = self._job
        if step % job.sample_every == 0 or step == job.settings.steps:
            save_samples(job.out / "samples", step, self._trainee, self._perceptual, self._photographs)
        if step % SAVE_EVERY == 0 or step == job.settings.steps:
            state.save(job.out / "state", self._trainee.state_tensors(), job.settings)


def sample_images(data: Data, size: int) -> Tensor:
    """Return the middle squares of the photographs of the samples, `(n, 3, size, size)`, sides multiples of 8."""
    squares, side = [], max(8, size // 8 * 8)
    for uri in data.samples:
        try:
            squares.append(centre_square(uri, side))
        except RejectError:
            continue
    return torch.stack(squares or [torch.full((3, side, side), 0.5)])


# ---- the result ------------------------------------------------------------------------------------------------------


def export(job: BankJob, data: Data) -> Path:
    """Write the network and the banks of a finished training into `job.out / "weights"`; return the folder.

    A given network is copied byte by byte. Existing files of the same names are replaced as wholes.

    Raises:
        KtBatchError: The training ended with values that float16 does not hold.
    """
    trainee = new_trainee(job, data)
    kind = AddedState if trainee.frozen else BankState
    state = kind.load(job.out / "state", trainee.state_tensors(), job.settings)
    if not all(value.detach().half().isfinite().all() for value in trainee.trained().values()):
        raise KtBatchError(
            f"The training in '{job.out}' diverged in its last step, and nothing of it can be kept; begin again in "
            "another --out, with a smaller --learning-rate."
        )
    folder = job.out / "weights"
    folder.mkdir(parents=True, exist_ok=True)
    if job.add_to is not None:
        network, given = load_network(Path(job.add_to)), Path(job.add_to).read_bytes()
    else:
        given = network_bytes(trainee.autoencoder)
        network = LoadedNetwork(trainee.autoencoder, content_id(trainee.autoencoder.state_dict()))
    write_file(folder / network_name(network.id), given)
    losses = final_losses(job, data, trainee)
    names = bank_names(data.styles)
    for style in data.styles:
        header = BankHeader(
            name=names[style.image_id],
            network=network.id,
            images={style.image_id: style.uri.rstrip("/").rsplit("/", 1)[-1]},
            kernel=job.settings.kernel,
            channels=network.network.channels,
            steps=state.step,
            losses=losses[style.image_id],
            added=job.add_to is not None,
        )
        write_file(folder / f"{header.name}{BANK_SUFFIX}", bank_bytes(trainee.banks[style.image_id], header))
    return folder


@torch.no_grad()
def final_losses(job: BankJob, data: Data, trainee: Trainee) -> Mapping[str, Mapping[str, float]]:
    """Return the losses of each style on the samples, by image id."""
    photographs = sample_images(data, job.settings.size)
    return losses_of(trainee, new_perceptual(job, data, "cpu"), photographs, pictures_of(trainee, photographs))
