"""How long a style takes that is added to the shipped network of StyleBank, beside the training of that network.

    python benchmarks/stylebank_added.py --images PHOTOGRAPHS --style wave=wave.jpg --style new=monet.jpg \
        --joint wave=wave.jpg --encoder vgg19 --encoder-weights FILE --steps 300 \
        --out benchmarks/results/stylebank_added.json

PHOTOGRAPHS and the loss network are those that the shipped network was trained with: then `header_style_loss` is the
style loss of `joint`. Style losses are means over the three photographs of the training's sheets, held out. The
target of a style is the loss of the shipped bank of that name; of a new style, the photographs' own loss times the mean
share of the shipped ones that `--joint` names. Seconds are processor seconds on one thread, so that what else a machine
does counts little: of the joint training, its steps times the median of steps measured here; of an added style, all of
its steps up to the target, what is prepared for them included, evaluations on the sheet not. A file that is there
already is continued: its styles and its seconds of a joint step are kept.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

from kt_batch.models.banks import SHIPPED, load_bank, load_network, shipped_banks
from kt_batch.models.weights import EncoderSource
from kt_batch.store.targets import write_file
from kt_batch.training.stylebank.job import (
    BankJob,
    Data,
    data_of,
    new_perceptual,
    new_trainee,
    sample_images,
    train_with,
)
from kt_batch.training.stylebank.loop import Trainee
from kt_batch.training.stylebank.losses import Perceptual
from kt_batch.training.stylebank.samples import sheet
from kt_batch.training.stylebank.settings import ADDED_RATE, JOINT_RATE, BankSettings

ROUNDS = 8  # of three joint steps that are timed


@torch.no_grad()
def losses(trainee: Trainee, perceptual: Perceptual, photographs: torch.Tensor) -> dict[str, float]:
    """Return the losses of photographs in the first style of the trainee."""
    styles = [0] * len(photographs)
    found = perceptual(trainee.stylised(photographs, styles), photographs, styles)
    return {
        "style": round(float(found.styles.mean()), 4),
        "content": round(float(found.content), 4),
        "variation": round(float(found.variation), 5),
    }


def seconds_of_joint_step(job: BankJob, data: Data) -> float:
    """Return the median processor seconds of a step of the joint training: of a round of three, divided by three."""
    settings = replace(job.settings, steps=3 * ROUNDS + 3, learning_rate=JOINT_RATE)
    joint = replace(job, add_to=None, settings=settings)
    marks = [time.process_time()]
    train_with(
        joint,
        data,
        new_trainee(joint, data),
        new_perceptual(joint, data, "cpu"),
        lambda *_: marks.append(time.process_time()),
        lambda *_: None,
    )
    return median(later - earlier for earlier, later in zip(marks[3::3], marks[6::3], strict=False)) / 3


def added_curve(
    job: BankJob, data: Data, trainee: Trainee, perceptual: Perceptual, photographs: torch.Tensor
) -> list[dict[str, float]]:
    """Train an added bank; return processor seconds and losses on the sheet, every `sample_every` steps."""
    curve = [{"step": 0, "seconds": 0.0} | losses(trainee, perceptual, photographs)]
    spent, since = 0.0, time.process_time()

    def note(step: int, _state: object) -> None:
        nonlocal spent, since
        spent += time.process_time() - since
        if step % job.sample_every == 0 or step == job.settings.steps:
            curve.append({"step": step, "seconds": round(spent, 1)} | losses(trainee, perceptual, photographs))
            print(curve[-1], flush=True)
        since = time.process_time()

    train_with(job, data, trainee, perceptual, lambda *_: None, note)
    return curve


def reconstructed(trainee: Trainee, photographs: torch.Tensor) -> bytes:
    """Return the reconstructions as bytes of a sheet."""
    with torch.no_grad():
        return sheet([trainee.autoencoder(photographs)])


def joint_share(job: BankJob, name: str) -> float:
    """Return the style loss of a shipped bank as a share of the photographs' own."""
    data = data_of(job)
    photographs, perceptual = sample_images(data, job.settings.size), new_perceptual(job, data, "cpu")
    own = float(perceptual(photographs, photographs, [0] * len(photographs)).styles.mean())
    trainee = new_trainee(job, data)
    trainee.banks[trainee.names[0]].data.copy_(load_bank(shipped_banks()[name]).bank)
    return losses(trainee, perceptual, photographs)["style"] / own


def of_style(job: BankJob, name: str, share: float | None, joint_step: float, pictures: Path | None) -> dict[str, Any]:
    """Return the figures of one added style; `share` is the target of a style that has no shipped bank."""
    data = data_of(job)
    photographs, perceptual = sample_images(data, job.settings.size), new_perceptual(job, data, "cpu")
    trainee = new_trainee(job, data)
    before, start = reconstructed(trainee, photographs), trainee.banks[trainee.names[0]].detach().clone()
    own = float(perceptual(photographs, photographs, [0] * len(photographs)).styles.mean())
    figures: dict[str, Any] = {"photographs_style_loss": round(own, 4)}
    columns = [photographs]
    if name in shipped_banks():
        joint = load_bank(shipped_banks()[name])
        trainee.banks[trainee.names[0]].data.copy_(joint.bank)
        figures["joint"] = losses(trainee, perceptual, photographs)
        figures["header_style_loss"] = round(joint.header.losses["style"], 4)
        target, steps = figures["joint"]["style"], joint.header.steps
        columns.append(trainee.stylised(photographs, [0] * len(photographs)).detach())
        trainee.banks[trainee.names[0]].data.copy_(start)
    else:
        target, steps = own * (share or 0), max(load_bank(path).header.steps for path in shipped_banks().values())
    curve = added_curve(job, data, trainee, perceptual, photographs)
    columns.append(trainee.stylised(photographs, [0] * len(photographs)).detach())
    if pictures:
        write_file(pictures / f"{name}.png", sheet(columns))
    reached = next((point for point in curve if point["style"] <= target), None)
    return figures | {
        "steps": job.settings.steps,
        "learning_rate": job.settings.learning_rate,
        "target_style_loss": round(target, 4),
        "target_share": round(target / own, 4),
        "steps_to_target": reached and reached["step"],
        "seconds_to_target": reached and reached["seconds"],
        "joint_seconds": round(steps * joint_step, 1),
        "ratio": reached and round(steps * joint_step / reached["seconds"], 1),
        "final_of_target": round(curve[-1]["style"] / target, 3),
        "reconstructions_unchanged": reconstructed(trainee, photographs) == before,
        "curve": curve,
    }


def report(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of all styles; shipped ones come first, since they give the target of new ones."""
    torch.set_num_threads(1)
    network = next(SHIPPED.glob("network-*.safetensors"))
    settings = BankSettings(
        steps=arguments.steps,
        learning_rate=arguments.learning_rate,
        batch=arguments.batch,
        size=arguments.size,
        style_size=arguments.style_size,
        channels=load_network(network).network.channels,
    )

    def job_of(path: str) -> BankJob:
        return BankJob(
            images=tuple(arguments.images),
            styles=(path,),
            encoder=EncoderSource(arguments.encoder, arguments.encoder_weights),
            add_to=str(network),
            out=Path("/nonexistent"),  # nothing is saved
            settings=settings,
            threads=1,
            sample_every=arguments.every,
        )

    known = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    jobs = {name: job_of(path) for name, path in (style.split("=", 1) for style in arguments.style)}
    first = next(iter(jobs.values()))
    joint_step = known.get("seconds_per_joint_step") or seconds_of_joint_step(first, data_of(first))
    shares = [joint_share(job_of(path), name) for name, path in (style.split("=", 1) for style in arguments.joint)]
    found: dict[str, Any] = known.get("styles", {})
    for name, job in jobs.items():
        print(name, flush=True)
        found[name] = of_style(job, name, mean(shares) if shares else None, joint_step, arguments.pictures)
    return {
        "encoder": arguments.encoder,
        "seconds_per_joint_step": round(joint_step, 4),
        "styles": found,
    }


def main() -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", nargs="+", required=True)
    parser.add_argument("--style", action="append", required=True, metavar="NAME=FILE")
    parser.add_argument("--joint", action="append", default=[], metavar="NAME=FILE", help="shipped, for new targets")
    parser.add_argument("--encoder", default="kt-vgg")
    parser.add_argument("--encoder-weights")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--learning-rate", type=float, default=ADDED_RATE)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--style-size", type=int, default=400)
    parser.add_argument("--every", type=int, default=20, help="steps between two evaluations")
    parser.add_argument("--pictures", type=Path, help="folder for a sheet of each style: photograph, joint, added")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.write_text(json.dumps(report(arguments), indent=1) + "\n")


if __name__ == "__main__":
    main()
