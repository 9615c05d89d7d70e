"""Train the shipped decoders on for the method painting.

`python jobs/train_painting.py PHOTOGRAPHS... --paintings PAINTINGS --out DIR`
"""

import typer

from kt_batch.cli.start import run_process


def load_app() -> typer.Typer:
    """Return the job."""
    from kt_batch.cli.training import painting_app

    return painting_app()


if __name__ == "__main__":
    run_process(load_app)
