"""How long a style takes that is added to a finished network of StyleBank, beside the joint training of that network.

    python benchmarks/stylebank.py JOINT ADDED... --images PHOTOGRAPHS --out benchmarks/results/stylebank.json

JOINT and ADDED are folders of `jobs/train_stylebank.py`; those of ADDED were trained with `--add-to` the network of
JOINT. Both hold sheets with the losses of the same photographs as the training went on. A loss is a share of the loss
that the photographs themselves have. Reported are the steps and the seconds until the loss of an added style came to
its target: the loss at the end of the joint training of the same style, or for a new style, the mean share of all joint
ones. Seconds are steps times the processor seconds of a step, measured here one after the
other on one thread, so that what else a machine did during a training counts little.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from kt_batch.models.banks import load_network
from kt_batch.models.weights import EncoderSource
from kt_batch.training.stylebank.job import (
    BankJob,
    Data,
    data_of,
    new_perceptual,
    new_trainee,
    sample_images,
    train_with,
)
from kt_batch.training.stylebank.settings import BankSettings

STEPS = 24  # that are timed, a multiple of the three of a round


def curves(folder: Path) -> dict[str, dict[int, float]]:
    """Return the style loss of each style of a training by step, from its sheets."""
    found: dict[str, dict[int, float]] = {}
    for path in sorted((folder / "samples").glob("*.json")):
        content = json.loads(path.read_text())
        for style, losses in content["losses"].items():
            if "style" in losses:
                found.setdefault(style, {})[content["step"]] = losses["style"]
    return found


def settings_of(folder: Path) -> BankSettings:
    """Return the settings that a training was started with."""
    return BankSettings(**json.loads((folder / "state" / "state.json").read_text())["settings"])


def seconds_per_step(job: BankJob, data: Data) -> float:
    """Return the median processor seconds of a round's steps, without checkpoints, divided by the steps."""
    job = replace(job, settings=replace(job.settings, steps=STEPS), out=job.out / "timed")  # which is never made
    trainee, perceptual = new_trainee(job, data), new_perceptual(job, data, "cpu")
    marks = [time.process_time()]
    train_with(job, data, trainee, perceptual, lambda *_: marks.append(time.process_time()), lambda *_: None)
    rounds = [later - earlier for earlier, later in zip(marks[3::3], marks[6::3], strict=False)]
    return median(rounds) / 3


def job_of(folder: Path, images: list[str], styles: list[str], network: Path | None) -> BankJob:
    """Return the job of a finished training."""
    return BankJob(
        images=tuple(images),
        styles=tuple(styles),
        encoder=EncoderSource(),
        add_to=str(network) if network else None,
        out=folder,
        settings=settings_of(folder),
        threads=1,
    )


@torch.no_grad()
def unstyled(job: BankJob, data: Data) -> list[float]:
    """Return the style loss of the photographs of the sheets themselves, for each style."""
    photographs = sample_images(data, job.settings.size)
    perceptual = new_perceptual(job, data, "cpu")
    return [
        float(perceptual(photographs, photographs, [style] * len(photographs)).styles.mean())
        for style in range(len(data.styles))
    ]


def of_training(
    folder: Path, images: list[str], styles: list[str], network: Path | None, targets: Mapping[str, float]
) -> dict[str, Any]:
    """Return seconds of a step and the curve of each style, as shares of the photographs' own loss.

    targets: Style -> the share that is to be reached; others are to reach the mean of these. Without any, they are the
    shares at the end of this training.
    """
    job = job_of(folder, images, styles, network)
    data = data_of(job)
    shares = {
        style.image_id: {step: loss / own for step, loss in curves(folder)[style.image_id].items()}
        for style, own in zip(data.styles, unstyled(job, data), strict=True)
    }
    known = targets or {style: curve[max(curve)] for style, curve in shares.items()}
    wanted = {style: known.get(style, sum(known.values()) / len(known)) for style in shares}
    step, uris = seconds_per_step(job, data), {style.image_id: style.uri for style in data.styles}
    reached = {style: next((at for at in sorted(c) if c[at] <= wanted[style]), None) for style, c in shares.items()}
    return {
        "steps": job.settings.steps,
        "seconds_per_step": round(step, 4),
        "styles": {
            style: {
                "name": Path(uris[style]).name,
                "target_share": round(wanted[style], 4),
                "final_share": round(curve[max(curve)], 4),
                "steps_to_target": reached[style],
                "seconds_to_target": None if reached[style] is None else round(step * (reached[style] or 0), 1),
                "shares": {str(at): round(share, 4) for at, share in curve.items()},
            }
            for style, curve in shares.items()
        },
    }


def report(arguments: argparse.Namespace) -> Mapping[str, Any]:
    """Return the figures of all trainings."""
    torch.set_num_threads(1)
    joint = Path(arguments.joint)
    (network,) = (joint / "weights").glob("network-*.safetensors")
    first = of_training(joint, arguments.images, arguments.joint_style, None, {})
    targets = {style: figures["final_share"] for style, figures in first["styles"].items()}
    added = [
        of_training(Path(folder), arguments.images, [style], network, targets)
        for folder, style in zip(arguments.added, arguments.added_style, strict=True)
    ]
    unchanged = all(
        next((Path(folder) / "weights").glob("network-*")).read_bytes() == network.read_bytes()
        for folder in arguments.added
    )
    return {"network": load_network(network).id, "network_unchanged": unchanged, "joint": first, "added": added}


def main() -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("joint")
    parser.add_argument("added", nargs="+")
    parser.add_argument("--images", nargs="+", required=True)
    parser.add_argument("--joint-style", nargs="+", required=True)
    parser.add_argument("--added-style", nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.write_text(json.dumps(report(arguments), indent=1) + "\n")


if __name__ == "__main__":
    main()
