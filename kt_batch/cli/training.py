"""The job that trains auto-encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from kt_batch.cli import options
from kt_batch.cli.arguments import Fields, expand
from kt_batch.cli.jobs import job_app
from kt_batch.cli.output import print_progress, print_summary
from kt_batch.cli.runner import make_members
from kt_batch.config import RunOptions
from kt_batch.errors import UsageError
from kt_batch.models.layers import CUT_POINTS
from kt_batch.models.weights import EncoderSource
from kt_batch.pipelines.inputs import absolute_file
from kt_batch.store.manifest_files import read_manifests
from kt_batch.training.autoencoder import TrainJob, train_autoencoder
from kt_batch.training.metrics import Metrics

# The training of the shipped decoders (docs/models.md).
STEPS = "relu3_1=2600,relu4_1=900,relu2_1=250,relu1_1=100"

TrainRun = Annotated[
    RunOptions,
    Fields(
        only=("runner", "workers", "threads", "address"),
        defaults={"workers": 1},
        options={"workers": Annotated[int, typer.Option("--workers", help="Ray workers at once.")]},
        panel=options.RUN_PANEL,
    ),
]


def train_app() -> typer.Typer:
    """Return the job that trains."""
    return job_app(expand(train))


def train(
    *,
    images: options.Images = None,
    manifest: options.Manifests = None,
    out: Annotated[Path, typer.Option("--out", help="State, metrics and the finished weights; all workers see it.")],
    teacher_weights: Annotated[
        str | None, typer.Option("--teacher-weights", help="VGG-19 as safetensors; default: torchvision's.")
    ] = None,
    encoder: Annotated[
        str | None, typer.Option("--encoder", help="Train decoders for this encoder (kt-vgg, vgg19) as it is.")
    ] = None,
    encoder_weights: Annotated[
        str | None, typer.Option("--encoder-weights", help="A safetensors file to take the encoder from.")
    ] = None,
    recipe: Annotated[
        Literal["default", "paper"], typer.Option("--recipe", help="Our decoders, or the paper's (section 3.6).")
    ] = "default",
    steps: Annotated[str, typer.Option("--steps", help="Which decoders, and how many steps each.")] = STEPS,
    batch: Annotated[int, typer.Option("--batch", help="Crops of 128 px per step and worker.")] = 16,
    seed: options.Seed = 0,
    how: TrainRun,
    gpu: Annotated[bool, typer.Option("--gpu", help="One GPU for each Ray worker.")] = False,
    json: options.Json = False,
) -> int:
    """Train, or continue where an earlier call stopped.

    Metrics go to DIR/LAYER/STAGE/metrics.csv and TensorBoard. On Ray nothing else is printed: follow those files.
    """
    weights = absolute_file(encoder_weights)
    job = TrainJob(
        images=tuple(images or ()),
        teacher=EncoderSource("vgg19", absolute_file(teacher_weights)),
        encoder=EncoderSource(encoder or "kt-vgg", weights) if encoder or weights else None,
        out=out.absolute(),
        recipe=recipe,
        steps=parse_steps(steps),
        batch=batch,
        threads=how.threads,
        seed=seed,
        manifests=read_manifests(manifest or []),
    )
    with make_members(how, gpu, out) as run_members:
        trained = train_autoencoder(job, Metrics(job.out, print_progress), run_members)
    print_summary({"weights": str(trained), "steps": dict(job.steps)}, [f"{trained}"], json)
    return 0


def parse_steps(text: str) -> dict[str, int]:
    """Read `relu3_1=2600,relu1_1=200` as {"relu3_1": 2600, "relu1_1": 200}. Raises UsageError."""
    steps: dict[str, int] = {}
    for entry in text.split(","):
        cut, _, number = entry.partition("=")
        if cut not in CUT_POINTS or not number.isdecimal() or int(number) == 0:
            raise UsageError(f"--steps got '{entry}'; give CUT=STEPS, CUT one of {', '.join(CUT_POINTS)}.")
        if cut in steps:
            raise UsageError(f"--steps names {cut} twice.")
        steps[cut] = int(number)
    return steps
