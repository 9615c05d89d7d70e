"""Methods side by side: the pictures of each from a process of its own, then one evaluation of all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from kt_batch.config import COMMON_SETTINGS
from kt_batch.evaluation.style.compare import Show
from kt_batch.evaluation.style.contenders import Contender, Finished, OwnMethod, Unedited, check_names
from kt_batch.evaluation.style.evaluate import StyleNetwork, StylePictures, evaluate_style
from kt_batch.evaluation.style.method_process import Made, run_method
from kt_batch.evaluation.style.one_method import DIGITS, Request
from kt_batch.evaluation.style.pictures import StylePicture, Unusable
from kt_batch.evaluation.style.report import ImageFacts, Mean, MethodReport, PairReport, StyleReport
from kt_batch.pipelines.progress import Progress, Step
from kt_batch.store.scratch import temporary_directory

MOST_REASONS = 3  # of a method without a picture, in one sentence


@dataclass(frozen=True)
class Failure:
    """A picture that could not be made, and why. photograph, painting: Their ids."""

    photograph: str
    painting: str
    reason: str


@dataclass(frozen=True)
class Training:
    """The training that a new painting costs before anything else. steps: Their median. added: For a finished network.

    A bank that is not added was trained jointly with its network and with other banks.
    """

    steps: float
    added: bool


@dataclass(frozen=True)
class MethodRow:
    """A method over all pairs.

    absent: Why it has no picture at all. failures: Single pictures that could not be made. seconds, processor_seconds:
    Medians of making one picture. preparation, processor_preparation: The same of preparing one painting, with the
    networks loaded. loading: Seconds of loading them. peak_bytes: Most memory of its process; None where it never
    answered. training: Of the filter banks of its paintings; None for a method that trains nothing. explains: What
    results say of their origin: `patches`, `levels`, `shares` or `nothing`; None without a result. means: As
    `MethodReport.means`.
    """

    name: str
    settings: Mapping[str, Any]
    pairs: int = 0
    absent: str | None = None
    failures: tuple[Failure, ...] = ()
    seconds: float | None = None
    processor_seconds: float | None = None
    preparation: float | None = None
    processor_preparation: float | None = None
    loading: float | None = None
    peak_bytes: int | None = None
    training: Training | None = None
    explains: str | None = None
    means: Mapping[str, Mean] = field(default_factory=dict)


@dataclass(frozen=True)
class SideBySide:
    """A comparison; `dataclasses.asdict` gives plain values for JSON.

    network: File and SHA-256 of VGG-19's weights; None without. absent: Measure -> why it was not taken. photograph:
    The measures of the photographs themselves. pairs: Values and seconds by method. unusable: Images of the places that
    were given, which were passed over.
    """

    size: int
    threads: int
    network: dict[str, str] | None
    absent: dict[str, str]
    numerics: dict[str, str]
    photographs: tuple[ImageFacts, ...]
    paintings: tuple[ImageFacts, ...]
    photograph: Mapping[str, Mean]
    methods: tuple[MethodRow, ...]
    pairs: tuple[PairReport, ...]
    unusable: tuple[Unusable, ...] = ()


def compare_side_by_side(
    pictures: StylePictures,
    methods: Sequence[OwnMethod | MethodRow],
    network: StyleNetwork,
    numerics: dict[str, str],
    show: Show,
    progress: Progress,
) -> SideBySide:
    """Make every picture of every method, and measure all of them.

    Args:
        pictures: Photographs and paintings.
        methods: Those to run, with distinct names and in the order of the report; a row in the place of one that
            cannot follow paintings.
        network: VGG-19 for measures, or nothing.
        numerics: The numerics class of this process; its threads are those of every process.
        show: Gets every result.
        progress: Is told of every picture.

    Raises:
        UsageError: Two photographs or two paintings have one name.
    """
    check_names(pictures.photographs, "photographs")
    check_names(pictures.paintings, "paintings")
    runnable = [method for method in methods if isinstance(method, OwnMethod)]
    with TemporaryDirectory(prefix="kt-batch-compare-", dir=temporary_directory()) as folder:
        made: dict[str, Made] = {}
        contenders: list[Contender] = [Unedited()]
        for number, method in enumerate(runnable):
            place = Path(folder) / str(number)
            place.mkdir()
            request = _request(method, pictures, int(numerics["threads"]), place)
            made[method.name] = run_method(request, _counted(progress, number, len(runnable), pictures))
            contenders.append(Finished(method.name, place, pictures.size))
        report = evaluate_style(pictures, contenders, {}, network, numerics, show, progress)
    rows = [method if isinstance(method, MethodRow) else _row(method, made, report) for method in methods]
    return _joined(report, rows, made)


def _request(method: OwnMethod, pictures: StylePictures, threads: int, place: Path) -> Request:
    photographs, paintings = (
        {picture.id: picture.uri for picture in side} for side in (pictures.photographs, pictures.paintings)
    )
    return Request(
        method.name,
        method.method,
        method.values,
        method.layer,
        method.size,
        threads,
        photographs,
        paintings,
        str(place),
        {image: asdict(bank) for image, bank in method.banks.items()},
    )


def _counted(progress: Progress, number: int, methods: int, pictures: StylePictures) -> Any:
    """Return what tells of the pictures of one method as a part of all pictures."""
    pairs = len(pictures.photographs) * len(pictures.paintings)
    return lambda done: progress(Step("pictures", number * pairs + done, methods * pairs))


def _row(method: OwnMethod, all_made: Mapping[str, Made], report: StyleReport) -> MethodRow:
    """Return the row of a method that ran."""
    made = all_made[method.name]
    measured = _measured(report, method.name)
    reasons = list(dict.fromkeys(made.failures.values()))
    kinds = list(dict.fromkeys(made.explains.values()))
    return MethodRow(
        name=method.name,
        settings=settings_of(method.settings),
        pairs=measured.pairs,
        absent=None if measured.pairs else "; ".join(reasons[:MOST_REASONS]),
        failures=tuple(Failure(*pair, reason) for pair, reason in sorted(made.failures.items())),
        seconds=_median(made.seconds),
        processor_seconds=_median(made.processor_seconds),
        preparation=_median(made.prepared),
        processor_preparation=_median(made.processor_prepared),
        loading=made.loaded,
        peak_bytes=made.peak,
        training=_training(method, made),
        explains=kinds[0] if kinds else None,
        means=measured.means,
    )


def _training(method: OwnMethod, made: Made) -> Training | None:
    """Return the training of the banks that pictures were made with."""
    used = [method.banks[painting] for painting in made.prepared if painting in method.banks]
    return Training(median(bank.steps for bank in used), all(bank.added for bank in used)) if used else None


def for_paintings(method: OwnMethod, paintings: Sequence[StylePicture]) -> OwnMethod | MethodRow:
    """Return the method with the filter banks of these paintings; a row with the reason where it needs some."""
    ours = method.with_banks_of(paintings)
    if ours.banks or not method.needs_banks:
        return ours
    reason = (
        f"The method {method.method} needs banks, which no painting gives; "
        "train banks for these paintings, and give them with --bank."
    )
    return MethodRow(method.name, settings_of({"method": method.method, **method.values}), absent=reason)


def settings_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that change a picture, without those of the file that a run writes it to."""
    return {name: value for name, value in settings.items() if name not in COMMON_SETTINGS}


def _joined(report: StyleReport, rows: Sequence[MethodRow], made: Mapping[str, Made]) -> SideBySide:
    """Return the report with the seconds of the pictures' own processes, in place of those of reading them."""
    pairs = tuple(
        replace(pair, seconds={name: each.seconds[key] for name, each in made.items() if key in each.seconds})
        for pair in report.pairs
        for key in [(pair.photograph, pair.painting)]
    )
    return SideBySide(
        size=report.size,
        threads=int(report.numerics["threads"]),
        network=report.network,
        absent=report.absent,
        numerics=report.numerics,
        photographs=report.photographs,
        paintings=report.paintings,
        photograph=_measured(report, Unedited.name).means,
        methods=tuple(rows),
        pairs=pairs,
    )


def _measured(report: StyleReport, name: str) -> MethodReport:
    return next(method for method in report.methods if method.name == name)


def _median(values: Mapping[Any, float]) -> float | None:
    return round(median(values.values()), DIGITS) if values else None
