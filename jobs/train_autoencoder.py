"""Train kt-vgg, distilled from VGG-19, with its decoder: `python jobs/train_autoencoder.py IMAGES... --out DIR`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kt_batch import options
from kt_batch.models.training import TrainSettings
from kt_batch.models.weights import EncoderSource
from kt_batch.pipelines.train import TrainJob, train_autoencoder
from kt_batch.start import leave, print_summary, run_app

REPORT_EVERY = 20

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def train(
    images: options.Paths,
    out: Annotated[Path, typer.Option("--out", help="State, metrics and the finished weights go here.")],
    teacher_weights: Annotated[
        str | None, typer.Option("--teacher-weights", help="VGG-19 as safetensors; default: torchvision's.")
    ] = None,
    steps: Annotated[int, typer.Option("--steps")] = TrainSettings().steps,
    batch: Annotated[int, typer.Option("--batch", help="Crops of 128 px per step.")] = 8,
    seed: options.Seed = 0,
    threads: options.Threads = 2,
    json: options.Json = False,
) -> int:
    """Train, or go on where an earlier call stopped; metrics go to metrics.csv."""
    job = TrainJob(
        tuple(images), EncoderSource("vgg19", teacher_weights), out, batch, threads, TrainSettings(steps, seed=seed)
    )
    out.mkdir(parents=True, exist_ok=True)
    with (out / "metrics.csv").open("a", buffering=1, encoding="utf-8") as metrics:

        def report(step: int, losses: dict[str, float]) -> None:
            if step % REPORT_EVERY == 0:
                values = ",".join(f"{name}={value:.4f}" for name, value in losses.items())
                metrics.write(f"{step},{values}\n")
                typer.echo(f"step {step}/{steps} {values}", err=True)

        weights = train_autoencoder(job, report)
    print_summary({"weights": str(weights), "steps": steps}, [f"{weights}"], json)
    return 0


if __name__ == "__main__":
    leave(run_app(app))
