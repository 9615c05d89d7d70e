"""Measure how good results are, as one job.

`ray job submit -- python jobs/evaluate.py pairs LIBRARY --html s.html`
`ray job submit -- python jobs/evaluate.py style PHOTOGRAPHS --style PAINTINGS --out sheet`
`ray job submit -- python jobs/evaluate.py compare PHOTOGRAPHS --style PAINTINGS --out sheet`
"""

import typer

from kt_batch.cli.start import run_process


def load_app() -> typer.Typer:
    """Return the job."""
    from kt_batch.cli.compare import add_compare
    from kt_batch.cli.evaluate import make_evaluate_app

    app = make_evaluate_app()
    add_compare(app)
    return app


if __name__ == "__main__":
    run_process(load_app)
