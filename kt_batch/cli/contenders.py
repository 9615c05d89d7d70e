"""The methods that `evaluate style` compares, from its options: `--method NAME[:SETTING=VALUE,...]`, `--results`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from pydantic import ValidationError

from kt_batch.cli.settings import MethodOptions, method_options
from kt_batch.config import Layer, describe_fault
from kt_batch.errors import UsageError
from kt_batch.evaluation.style.contenders import Contender, Finished, OwnMethod
from kt_batch.evaluation.style.pictures import Decode
from kt_batch.methods.presets import PRESETS
from kt_batch.methods.table import METHODS

LAYER = "layer"  # a setting of `--method` beside those of the method itself


def read_method(text: str, size: int) -> OwnMethod:
    """Read `knowledge`, `paper` or `knowledge:swap=statistics,alpha=0.5`.

    Args:
        text: the name of a method or a preset, then settings by the names of their options.
        size: long side of the pictures, in pixels.

    Raises:
        UsageError: there is no such method or preset, or a setting is unknown or not allowed.
    """
    name, _, rest = text.partition(":")
    if name not in METHODS and name not in PRESETS:
        allowed = ", ".join((*METHODS, *PRESETS))
        raise UsageError(f"--method got '{text}': there is no method or preset '{name}'; allowed are {allowed}.")
    given = dict(_setting(text, part) for part in rest.split(",")) if rest else {}
    layer = given.pop(LAYER, None)
    if layer is not None and layer not in get_args(Layer):
        raise UsageError(f"--method got '{text}': allowed layers are {', '.join(get_args(Layer))}.")
    chosen = {"preset" if name in PRESETS else "method": name}
    model = method_options()
    if unknown := sorted(given.keys() - (model.model_fields.keys() - MethodOptions.model_fields.keys())):
        raise UsageError(f"--method got '{text}': no method has a setting '{unknown[0]}'.")
    try:
        settings = model.model_validate({**chosen, **given}).resolve()
    except ValidationError as error:
        raise UsageError(f"--method got '{text}': {describe_fault(error)}") from error
    return OwnMethod(text, settings.method, settings.values, layer, size)


def _setting(text: str, part: str) -> tuple[str, str]:
    key, equals, value = part.partition("=")
    if not key or not equals:
        raise UsageError(f"--method got '{text}': '{part}' is not SETTING=VALUE, as in knowledge:alpha=0.5.")
    return key.replace("-", "_"), value


def read_results(text: str, size: int, decode: Decode) -> Finished:
    """Read `NAME=DIR`. Raises UsageError for another form, and MissingError when there is no such folder."""
    name, equals, folder = text.partition("=")
    if not name or not folder:
        raise UsageError(f"--results got '{text}'; give NAME=DIR, as in theirs=folder.")
    del equals
    return Finished(name, Path(folder), size, decode)


def read_contenders(methods: Sequence[str], results: Sequence[str], size: int, decode: Decode) -> list[Contender]:
    """Return the contenders that `--method` and `--results` name, in this order; `decode` reads finished pictures."""
    ours: list[Contender] = [read_method(text, size) for text in methods]
    return [*ours, *(read_results(text, size, decode) for text in results)]
