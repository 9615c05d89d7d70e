"""Translate images, as a job.

`ray job submit -- python jobs/translate.py IMAGES... --library LIB --out RUN`
"""

import typer

from kt_batch.cli.start import run_process


def load_app() -> typer.Typer:
    """Return the job."""
    from kt_batch.cli.jobs import translate_app

    return translate_app()


if __name__ == "__main__":
    run_process(load_app)
