"""Train kt-vgg with its decoders, or decoders for another encoder.

`python jobs/train_autoencoder.py IMAGES... --out DIR`
"""

import typer

from kt_batch.cli.start import run_process


def load_app() -> typer.Typer:
    """Return the job."""
    from kt_batch.cli.training import train_app

    return train_app()


if __name__ == "__main__":
    run_process(load_app)
