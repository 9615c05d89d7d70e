"""The job that trains filter banks, `train_stylebank`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import Field

from kt_batch.cli import options
from kt_batch.cli.arguments import expand
from kt_batch.cli.jobs import job_app
from kt_batch.cli.output import print_progress, print_summary
from kt_batch.cli.runner import make_members
from kt_batch.cli.training import TrainRun
from kt_batch.errors import UsageError
from kt_batch.models.stylebank import STRIDE
from kt_batch.models.weights import EncoderSource
from kt_batch.pipelines.inputs import absolute_file
from kt_batch.store.bank_files import BANK_SUFFIX, MOST_CHANNELS, MOST_KERNEL
from kt_batch.store.manifest_files import read_manifests
from kt_batch.training.metrics import Metrics
from kt_batch.training.stylebank.job import BankJob, train_banks
from kt_batch.training.stylebank.settings import ADDED_RATE, ADDED_STEPS, JOINT_RATE, JOINT_STEPS, BankSettings

DEFAULT = BankSettings()


class TrainingOptions(options.Options):
    """Options of what is trained, and how."""

    add_to: str | None = Field(
        None, description="A network that stays as it is: only new banks are trained, for this network."
    )
    steps: int | None = Field(
        None, ge=1, description=f"Default: the paper's {JOINT_STEPS}; with --add-to {ADDED_STEPS}."
    )
    size: int = Field(DEFAULT.size, ge=16, le=2048, description="Side of the crops, in pixels.")
    style_size: int = Field(DEFAULT.style_size, ge=16, le=2048, description="Long side of style images, in pixels.")
    batch: int = Field(DEFAULT.batch, ge=1, le=4096, description="Crops per step and worker.")
    learning_rate: float | None = Field(
        None,
        gt=0,
        le=1,
        description=f"At the start, of Adam: default {JOINT_RATE}; with --add-to the peak, of Muon: {ADDED_RATE}.",
    )
    bank_kernel: int = Field(DEFAULT.kernel, description="Side of the filters, odd; the paper: 3 and 7.")
    channels: int | None = Field(None, description="Of a new network's features; the paper: 128 (default), 64 and 32.")
    style_weight: float = Field(DEFAULT.style, ge=0, le=1e12, description="Of the style's loss beside the content's.")
    smoothness: float = Field(DEFAULT.variation, ge=0, le=1e12, description="Weight of the total variation.")

    def settings(self, seed: int) -> BankSettings:
        """Return the settings of the training. Raises UsageError for a value that is not allowed."""
        if self.bank_kernel % 2 == 0 or not 1 <= self.bank_kernel <= MOST_KERNEL:
            raise UsageError(
                f"--bank-kernel {self.bank_kernel} is not allowed; give an odd number from 1 to {MOST_KERNEL}."
            )
        if self.size % STRIDE:
            raise UsageError(f"--size {self.size} is not allowed; give a multiple of {STRIDE}.")
        if self.channels is not None and self.add_to is not None:
            raise UsageError(f"--channels {self.channels} has no effect with --add-to, whose network has its own.")
        channels = DEFAULT.channels if self.channels is None else self.channels
        if channels % 4 or not 4 <= channels <= MOST_CHANNELS:
            raise UsageError(f"--channels {channels} is not allowed; give a multiple of 4 from 4 to {MOST_CHANNELS}.")
        return BankSettings(
            steps=self.steps or (ADDED_STEPS if self.add_to else JOINT_STEPS),
            seed=seed,
            batch=self.batch,
            learning_rate=self.learning_rate or (ADDED_RATE if self.add_to else JOINT_RATE),
            size=self.size,
            style_size=self.style_size,
            kernel=self.bank_kernel,
            channels=channels,
            style=self.style_weight,
            variation=self.smoothness,
        )


def train_stylebank_app() -> typer.Typer:
    """Return the job that trains filter banks."""
    return job_app(expand(train_stylebank))


def train_stylebank(
    *,
    style: Annotated[list[str], typer.Option("--style", help="A style image, or a place of them; may be repeated.")],
    images: Annotated[list[str] | None, typer.Option("--images", help="Photographs; may be repeated.")] = None,
    manifest: options.Manifests = None,
    out: Annotated[Path, typer.Option("--out", help="State, samples, metrics and weights; all workers see it.")],
    banks: TrainingOptions,
    encoder: Annotated[str, typer.Option("--encoder", help="The network of the losses: kt-vgg or vgg19.")] = "kt-vgg",
    encoder_weights: Annotated[
        str | None, typer.Option("--encoder-weights", help="A safetensors file to take that network from.")
    ] = None,
    sample_every: Annotated[
        int, typer.Option("--sample-every", min=1, help="Steps between two sheets of samples.")
    ] = 500,
    seed: options.Seed = 0,
    how: TrainRun,
    gpu: Annotated[bool, typer.Option("--gpu", help="One GPU for each Ray worker.")] = False,
    json: options.Json = False,
) -> int:
    """Train banks of filters, one for each style image, or continue where an earlier call stopped.

    DIR/samples has a sheet of photographs in all styles as the training goes on, DIR/banks the metrics, DIR/weights the
    network and the banks. On Ray nothing else is printed: follow those files.
    """
    job = BankJob(
        images=tuple(images or ()),
        styles=tuple(style),
        encoder=EncoderSource(encoder, absolute_file(encoder_weights)),
        add_to=absolute_file(banks.add_to),
        out=out.absolute(),
        settings=banks.settings(seed),
        threads=how.threads,
        sample_every=sample_every,
        manifests=read_manifests(manifest or []),
    )
    with make_members(how, gpu, out) as run_members:
        weights = train_banks(job, Metrics(job.out, print_progress), run_members)
    trained = sorted(path.name for path in weights.glob(f"*{BANK_SUFFIX}"))
    print_summary({"weights": str(weights), "steps": job.settings.steps, "banks": trained}, [f"{weights}"], json)
    return 0
