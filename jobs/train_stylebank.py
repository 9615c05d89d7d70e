"""Train the network of StyleBank with a filter bank for each style, or add banks to a network.

`python jobs/train_stylebank.py --style PAINTING... --images PHOTOS --out DIR`
"""

import typer

from kt_batch.cli.start import run_process


def load_app() -> typer.Typer:
    """Return the job."""
    from kt_batch.cli.stylebank import train_stylebank_app

    return train_stylebank_app()


if __name__ == "__main__":
    run_process(load_app)
