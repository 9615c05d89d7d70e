"""Train kt-vgg with its decoders, or decoders for another encoder: `train_autoencoder.py IMAGES... --out DIR`."""

from __future__ import annotations

from kt_batch.process import tune_process

tune_process()  # before torch is imported

from pathlib import Path
from typing import Annotated, Literal

import typer

from kt_batch.cli import options
from kt_batch.cli.start import absolute_file, leave, make_members, print_summary, run_app
from kt_batch.config import RunOptions
from kt_batch.errors import UsageError
from kt_batch.models.layers import CUT_POINTS
from kt_batch.models.weights import EncoderSource
from kt_batch.training.autoencoder import TrainJob, train_autoencoder
from kt_batch.training.metrics import Metrics

# What the shipped decoders were trained for (docs/models.md).
STEPS = "relu3_1=2600,relu4_1=900,relu2_1=250,relu1_1=100"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def train(
    images: options.Paths,
    out: Annotated[Path, typer.Option("--out", help="State, metrics and the finished weights; all workers see it.")],
    teacher_weights: Annotated[
        str | None, typer.Option("--teacher-weights", help="VGG-19 as safetensors; default: torchvision's.")
    ] = None,
    encoder: Annotated[
        str | None, typer.Option("--encoder", help="Train decoders for this encoder (kt-vgg, vgg19) as it is.")
    ] = None,
    encoder_weights: options.EncoderWeights = None,
    recipe: Annotated[
        Literal["default", "paper"], typer.Option("--recipe", help="Our decoders, or the paper's (section 3.6).")
    ] = "default",
    steps: Annotated[str, typer.Option("--steps", help="Which decoders, and how many steps each.")] = STEPS,
    batch: Annotated[int, typer.Option("--batch", help="Crops of 128 px per step and worker.")] = 16,
    seed: options.Seed = 0,
    runner: options.RunnerName = "local",
    workers: options.Workers = 1,
    threads: options.Threads = 2,
    gpu: Annotated[bool, typer.Option("--gpu", help="One GPU for each Ray worker.")] = False,
    address: options.Address = None,
    json: options.Json = False,
) -> int:
    """Train, or go on where an earlier call stopped; metrics go to DIR/LAYER/STAGE/metrics.csv and TensorBoard.

    On Ray nothing is printed on the way: follow those files.
    """
    job = TrainJob(
        images=tuple(images),
        teacher=EncoderSource("vgg19", absolute_file(teacher_weights)),
        encoder=EncoderSource(encoder or "kt-vgg", absolute_file(encoder_weights))
        if encoder or encoder_weights
        else None,
        out=out.absolute(),
        recipe=recipe,
        steps=parse_steps(steps),
        batch=batch,
        threads=threads,
        seed=seed,
    )
    how = RunOptions(runner=runner, workers=workers, threads=threads, address=address)
    with make_members(how, gpu, out) as run_members:
        weights = train_autoencoder(job, Metrics(job.out, _say), run_members)
    print_summary({"weights": str(weights), "steps": dict(job.steps)}, [f"{weights}"], json)
    return 0


def parse_steps(text: str) -> dict[str, int]:
    """`relu3_1=2600,relu1_1=200` -> {"relu3_1": 2600, "relu1_1": 200}. Raises UsageError."""
    steps: dict[str, int] = {}
    for entry in text.split(","):
        cut, _, number = entry.partition("=")
        if cut not in CUT_POINTS or not number.isdecimal() or int(number) == 0:
            raise UsageError(f"--steps got '{entry}'; give CUT=STEPS, CUT one of {', '.join(CUT_POINTS)}.")
        if cut in steps:
            raise UsageError(f"--steps names {cut} twice.")
        steps[cut] = int(number)
    return steps


def _say(line: str) -> None:
    typer.echo(line, err=True)


if __name__ == "__main__":
    leave(run_app(app))
