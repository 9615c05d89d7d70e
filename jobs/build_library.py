"""Extract images into a library and index it, as one job.

`ray job submit -- python jobs/build_library.py IMAGES... --library LIB`
"""

import typer

from kt_batch.cli.start import run_process


def load_app() -> typer.Typer:
    """Return the job."""
    from kt_batch.cli.jobs import build_library_app

    return build_library_app()


if __name__ == "__main__":
    run_process(load_app)
