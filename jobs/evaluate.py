"""Measure how good results are, as one job.

`ray job submit -- python jobs/evaluate.py pairs LIBRARY --html s.html`
`ray job submit -- python jobs/evaluate.py style PHOTOGRAPHS --style PAINTINGS --out sheet`
"""

import typer

from kt_batch.cli.start import run_process


def load_app() -> typer.Typer:
    """Return the job."""
    from kt_batch.cli.evaluate import evaluate_app

    return evaluate_app


if __name__ == "__main__":
    run_process(load_app)
