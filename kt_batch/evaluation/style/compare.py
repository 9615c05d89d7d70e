"""Compare methods on all pairs of photographs and paintings."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from torch import Tensor

from kt_batch.errors import KtBatchError, MissingError, RejectError, UsageError
from kt_batch.evaluation.style.contenders import Contender, Finished, Translate, Unedited
from kt_batch.evaluation.style.measures import StyleMeasures, StyleValues
from kt_batch.evaluation.style.painting_banks import NoBankError
from kt_batch.evaluation.style.pictures import StylePicture, as_written
from kt_batch.evaluation.style.report import MethodReport, PairReport, curve_name, differences_of, means_of
from kt_batch.pipelines.progress import Progress, Step

Show = Callable[[StylePicture, StylePicture, str, Tensor], None]  # photograph, painting, method, result as written


@dataclass
class _Kept:
    """The values and times of one contender so far."""

    values: dict[tuple[str, str], StyleValues] = field(default_factory=dict)
    seconds: dict[tuple[str, str], float] = field(default_factory=dict)
    preparation: list[float] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def compare(
    photographs: Sequence[StylePicture],
    paintings: Sequence[StylePicture],
    contenders: Sequence[Contender],
    measures: StyleMeasures,
    show: Show,
    progress: Progress,
) -> tuple[tuple[MethodReport, ...], tuple[PairReport, ...]]:
    """Measure every contender on every pair, one painting after the other.

    All pictures are rounded to 8 bits before they are measured, so that a finished picture gets the values of the
    method that made it.

    Args:
        photographs: the photographs.
        paintings: the paintings.
        contenders: those whose results are compared; their names are distinct.
        measures: the measures.
        show: gets every result.
        progress: is told of every result.

    Raises:
        UsageError: two contenders have one name, or one has no painting to follow.
    """
    _check_distinct([contender.name for contender in contenders])
    kept: dict[str, _Kept] = defaultdict(_Kept)
    known = {photograph.id: measures.photograph(as_written(photograph.image)) for photograph in photographs}
    total, done = len(photographs) * len(paintings) * len(contenders), 0
    for painting in paintings:
        reference = measures.painting(as_written(painting.image))
        for contender in contenders:
            mine = kept[contender.name]
            translate = _prepare(contender, painting, mine)
            for photograph in photographs:
                result = _translate(contender, translate, photograph, painting, mine)
                done += 1
                progress(Step("style", done, total))
                if result is not None:
                    values = measures.measure(result, known[photograph.id], reference)
                    mine.values[photograph.id, painting.id] = values
                    show(photograph, painting, contender.name, result)
    pairs = tuple(_pair(photograph, painting, kept) for photograph in photographs for painting in paintings)
    baseline = next((each.name for each in contenders if each.kind != Unedited.kind), "")
    return tuple(_method(contender, kept[contender.name], pairs, baseline) for contender in contenders), pairs


def _check_distinct(names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"Two methods are called '{name}'; give each --method and --results a name of its own.")


def _prepare(contender: Contender, painting: StylePicture, mine: _Kept) -> Translate:
    started = time.perf_counter()
    try:
        translate = contender.after(painting)
    except NoBankError as error:
        return _failing(error)
    mine.preparation.append(time.perf_counter() - started)
    return translate


def _failing(error: KtBatchError) -> Translate:
    """Return what raises an error for every photograph."""

    def fail(_: StylePicture) -> Tensor:
        raise error

    return fail


def _translate(
    contender: Contender, translate: Translate, photograph: StylePicture, painting: StylePicture, mine: _Kept
) -> Tensor | None:
    """Return a result as a file holds it.

    None, with the reason kept, where a finished picture cannot be had, or a painting has no filter bank.
    """
    started = time.perf_counter()
    try:
        result = translate(photograph)
    except (MissingError, RejectError, UsageError) as error:
        if not isinstance(contender, Finished) and not isinstance(error, NoBankError):
            raise
        mine.missing.append(str(error))
        return None
    mine.seconds[photograph.id, painting.id] = round(time.perf_counter() - started, 3)
    return as_written(result)


def _pair(photograph: StylePicture, painting: StylePicture, kept: Mapping[str, _Kept]) -> PairReport:
    key = (photograph.id, painting.id)
    values = {name: mine.values[key] for name, mine in kept.items() if key in mine.values}
    seconds = {name: mine.seconds[key] for name, mine in kept.items() if key in mine.seconds}
    return PairReport(photograph.id, painting.id, values, seconds)


def _method(contender: Contender, mine: _Kept, pairs: Sequence[PairReport], baseline: str) -> MethodReport:
    timed = contender.kind in ("method", "peer") and mine.seconds
    return MethodReport(
        name=contender.name,
        kind=contender.kind,
        settings=dict(contender.settings),
        curve=curve_name(contender.kind, contender.settings) if contender.kind == "method" else contender.name,
        absent=None if mine.values else "none of its pictures could be used",
        missing=tuple(mine.missing),
        pairs=len(mine.values),
        means=means_of(contender.name, pairs),
        differences={} if contender.name == baseline else differences_of(contender.name, baseline, pairs),
        seconds=round(fmean(mine.seconds.values()), 3) if timed else None,
        preparation=round(fmean(mine.preparation), 3) if timed else None,
    )
