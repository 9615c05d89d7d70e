"""Evaluate what was learned, as one job.

`ray job submit -- python jobs/evaluate.py pairs LIBRARY --html s.html`
"""

import typer

from kt_batch.cli.start import run_process


def load_app() -> typer.Typer:
    """Return the job."""
    from kt_batch.cli.evaluate import evaluate_app

    return evaluate_app


if __name__ == "__main__":
    run_process(load_app)
