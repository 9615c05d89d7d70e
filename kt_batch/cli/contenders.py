"""The methods that `evaluate style` compares, from its options: `--method NAME[:SETTING=VALUE,...]`, `--results`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from pydantic import Field, ValidationError

from kt_batch.cli import options
from kt_batch.cli.settings import MethodOptions, method_options
from kt_batch.config import Layer, describe_fault
from kt_batch.errors import UsageError
from kt_batch.evaluation.style.contenders import Contender, Finished, OwnMethod
from kt_batch.evaluation.style.painting_banks import PaintingBank, banks_by_painting, check_used
from kt_batch.evaluation.style.pictures import Decode, StylePicture
from kt_batch.methods.base import Need
from kt_batch.methods.presets import PRESETS
from kt_batch.methods.table import METHODS, method_named

LAYER = "layer"  # a setting of `--method` beside those of the method itself


@dataclass(frozen=True)
class Chosen:
    """A method as `--method` names it: the text, the method's name, its settings, and where its encoder is cut."""

    text: str
    method: str
    values: Mapping[str, object]
    layer: str | None


class PaintingBankOptions(options.Options):
    """Filter banks of the paintings, for methods that need some."""

    bank: tuple[str, ...] = Field(
        (),
        description="The filter bank of one of the paintings, for the method stylebank: a file, or the name of a "
        "shipped one. May be repeated. Default: all that are shipped. A bank is used for the very file that it was "
        "trained on.",
    )
    network: str | None = Field(None, description="The network of the banks; default: the one beside each bank.")

    def banks_of(self, methods: Iterable[str]) -> dict[str, PaintingBank]:
        """Return the banks by image id of their painting; none where no method of these names needs any.

        Raises:
            UsageError: Banks are named, and no method needs any; or as `banks_by_painting`.
        """
        if any(Need.BANKS in method_named(method).needs for method in methods):
            return banks_by_painting(self.bank, self.network)
        for option, given in (("--bank", self.bank), ("--network", self.network)):
            if given:
                raise UsageError(f"{option} has no effect without the method stylebank.")
        return {}

    def check_paintings(self, methods: Iterable[object], paintings: Sequence[StylePicture]) -> None:
        """Raise UsageError for a bank that is named and that was trained for none of the paintings."""
        for method in methods:
            if isinstance(method, OwnMethod):
                check_used(self.bank, method.banks, paintings)


def own_methods(chosen: Sequence[Chosen], size: int, banks: PaintingBankOptions) -> list[OwnMethod]:
    """Return methods for pictures of this long side, those that need banks with theirs. Raises as `OwnMethod` does."""
    found = banks.banks_of(each.method for each in chosen)
    return [OwnMethod(each.text, each.method, each.values, each.layer, size, banks=found) for each in chosen]


def parse_method(text: str, option: str = "--method") -> Chosen:
    """Read `knowledge`, `paper` or `knowledge:swap=statistics,alpha=0.5`.

    Args:
        text: the name of a method or a preset, then settings by the names of their options.
        option: That which got it, for errors.

    Raises:
        UsageError: there is no such method or preset, or a setting is unknown or not allowed.
    """
    name, _, rest = text.partition(":")
    if name not in METHODS and name not in PRESETS:
        allowed = ", ".join(dict.fromkeys((*METHODS, *PRESETS)))
        raise UsageError(f"{option} got '{text}': there is no method or preset '{name}'; allowed are {allowed}.")
    given = dict(_setting(text, part, option) for part in rest.split(",")) if rest else {}
    layer = given.pop(LAYER, None)
    if layer is not None and layer not in get_args(Layer):
        raise UsageError(f"{option} got '{text}': allowed layers are {', '.join(get_args(Layer))}.")
    chosen = {"preset" if name in PRESETS else "method": name}
    model = method_options()
    if unknown := sorted(given.keys() - (model.model_fields.keys() - MethodOptions.model_fields.keys())):
        raise UsageError(f"{option} got '{text}': no method has a setting '{unknown[0]}'.")
    try:
        settings = model.model_validate({**chosen, **given}).resolve()
    except ValidationError as error:
        raise UsageError(f"{option} got '{text}': {describe_fault(error)}") from error
    return Chosen(text, settings.method, settings.values, layer)


def _setting(text: str, part: str, option: str) -> tuple[str, str]:
    key, equals, value = part.partition("=")
    if not key or not equals:
        raise UsageError(f"{option} got '{text}': '{part}' is not SETTING=VALUE, as in knowledge:alpha=0.5.")
    return key.replace("-", "_"), value


def read_results(text: str, size: int, decode: Decode) -> Finished:
    """Read `NAME=DIR`. Raises UsageError for another form, and MissingError when there is no such folder."""
    name, equals, folder = text.partition("=")
    if not name or not folder:
        raise UsageError(f"--results got '{text}'; give NAME=DIR, as in theirs=folder.")
    del equals
    return Finished(name, Path(folder), size, decode)


def read_contenders(
    methods: Sequence[str], results: Sequence[str], size: int, banks: PaintingBankOptions, decode: Decode
) -> list[Contender]:
    """Return the contenders that `--method` and `--results` name, in this order; `decode` reads finished pictures."""
    ours = own_methods([parse_method(text) for text in methods], size, banks)
    return [*ours, *(read_results(text, size, decode) for text in results)]
