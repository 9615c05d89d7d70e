"""Assemble the command line.

Every command reads options, calls one pipeline, prints a summary, and returns an exit code.
"""

from __future__ import annotations

import typer

from kt_batch.cli.banks import banks_command
from kt_batch.cli.bench import bench_app
from kt_batch.cli.compare import add_compare
from kt_batch.cli.demo import add_demo
from kt_batch.cli.evaluate import evaluate_app
from kt_batch.cli.extract import add_extract
from kt_batch.cli.index import add_index
from kt_batch.cli.influence import add_influence
from kt_batch.cli.inspection import add_inspection
from kt_batch.cli.libraries import add_libraries
from kt_batch.cli.lut import add_lut
from kt_batch.cli.maintenance import add_maintenance
from kt_batch.cli.merge import add_merge
from kt_batch.cli.models import models_command
from kt_batch.cli.pairs import add_pairs
from kt_batch.cli.sheet import add_sheet
from kt_batch.cli.single import add_try
from kt_batch.cli.translate import add_translate


def make_app() -> typer.Typer:
    """Return all commands; their options follow the configurations and the table of methods."""
    made = typer.Typer(
        name="kt-batch",
        help="Re-render image collections after the look of another collection, with the origin of every patch on "
        "record.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        epilog="--debug, anywhere, shows the traceback of an error.",
    )
    add_try(made)
    add_extract(made)
    add_pairs(made)
    add_lut(made)
    add_index(made)
    add_merge(made)
    add_libraries(made)
    add_translate(made)
    add_inspection(made)
    add_influence(made)
    add_maintenance(made)
    add_sheet(made)
    add_compare(made)
    add_demo(made)
    made.command("models")(models_command)
    made.command("banks")(banks_command)
    made.add_typer(bench_app, name="bench")
    made.add_typer(evaluate_app, name="evaluate")
    return made


app = make_app()
