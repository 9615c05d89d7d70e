"""The one way from a template to a page or a plot: foreign text is escaped, for browsers and for terminals."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from kt_batch.text import printable


def new_environment(*, trim_blocks: bool = False) -> Environment:
    """Return an environment for the templates of this package.

    trim_blocks: Lines that hold tags alone leave no empty lines.
    """
    return Environment(
        loader=PackageLoader("kt_batch.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=trim_blocks,
        lstrip_blocks=trim_blocks,
        finalize=_visible,
    )


def _visible(value: Any) -> Any:
    """Escape what is invisible in text; markup of ours, a subclass of text, stays as it is."""
    return printable(value) if type(value) is str else value
