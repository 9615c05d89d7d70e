"""Train StyleBank's network twice, with the branch of the auto-encoder and without it, for figure 6 of the paper.

    python benchmarks/stylebank_branches.py BRANCHES --style PAINTING... --images PHOTOGRAPHS

BRANCHES/with and BRANCHES/without are folders of trainings; a second call goes on where the first one stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from kt_batch.models.weights import EncoderSource
from kt_batch.training.autoencoder import Member
from kt_batch.training.metrics import Metrics
from kt_batch.training.stylebank.job import BankJob, train_banks
from kt_batch.training.stylebank.settings import BankSettings


def alone(member: Member) -> None:
    """Run the only member of a training in this process."""
    member(0, 1, None)


def main() -> None:
    """Train both networks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--style", nargs="+", required=True)
    parser.add_argument("--images", nargs="+", required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=2)
    given = parser.parse_args()
    for name, stylings in (("without", given.steps), ("with", 2)):  # so many steps before one of the auto-encoder
        settings = BankSettings(
            steps=given.steps, size=given.size, batch=given.batch, channels=given.channels, stylings=stylings
        )
        out = given.out.absolute() / name
        job = BankJob(tuple(given.images), tuple(given.style), EncoderSource(), None, out, settings, threads=1)
        train_banks(job, Metrics(out, print), alone)


if __name__ == "__main__":
    main()
