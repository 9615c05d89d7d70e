"""Plan a translation: which images are done, which units are to do, and what their workers need to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from kt_batch.config import MethodConfig, RunOptions
from kt_batch.errors import MismatchError, UsageError
from kt_batch.pipelines.inputs import plan_items, unreadable_id
from kt_batch.pipelines.planning import PlannedUnits, earlier_numerics, plan_units
from kt_batch.pipelines.progress import Progress
from kt_batch.pipelines.translate.sources import Sources
from kt_batch.store.inputs import Input, list_inputs, output_name
from kt_batch.store.locations import Location, absolute_place, location_contains, open_location
from kt_batch.store.opening import refuse_other_kind
from kt_batch.store.targets import check_place
from kt_batch.store.units import Attempt, Item, Ledger, Unit


@dataclass(frozen=True)
class TranslateRequest:
    """The request of a caller.

    images: Paths, globs or URIs. run: A path or URI. config: The method and its settings. sources: Where weights,
    library and style images come from. options: How the work is run.
    """

    images: Sequence[str]
    run: str
    config: MethodConfig
    sources: Sources
    options: RunOptions


@dataclass(frozen=True)
class TranslateJob:
    """Everything that a worker needs, small enough to send.

    numerics: The numerics class of the units committed so far; None when there are none.
    name_conflicts: Names that are planned for more than one image.
    already_written: (unit id, name) of outputs that another unit has made.
    """

    run: str
    config: MethodConfig
    sources: Sources
    threads: int
    numerics: tuple[tuple[str, str], ...] | None = None
    mix_numerics: bool = False
    name_conflicts: frozenset[str] = frozenset()
    already_written: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True)
class TranslatePlan:
    """The work of a translation. items: The inputs that were named."""

    ledger: Ledger
    items: Sequence[Item]
    planned: PlannedUnits
    job: TranslateJob


def plan_translate(request: TranslateRequest, progress: Progress, *, dry_run: bool = False) -> TranslatePlan:
    """Plan the images that are not planned yet, and those to be tried once more.

    Args:
        request: What to translate.
        progress: Called while inputs are identified.
        dry_run: Write nothing.

    Raises:
        UsageError: There is nothing to translate, two outputs exclude each other, or the run would be a file, a library
            or the folder of the inputs.
        MismatchError: The run has another configuration, or holds the output of another image under one of the names.
    """
    run, options = absolute_place(request.run), request.options
    check_place("--out", request.run, [*request.images, *(style.uri for style in request.sources.styles)])
    location = open_location(run)
    ledger = Ledger(location)
    refuse_other_kind(ledger, "run")
    items = plan_items(exclude_outputs(list_inputs(request.images), location), progress)
    check_outputs(ledger, items, request.config.format)
    planned = plan_units(ledger, items, options, request.config, dry_run=dry_run)
    job = TranslateJob(
        run=run,
        config=request.config,
        sources=request.sources,
        threads=options.threads,
        numerics=earlier_numerics(ledger),
        mix_numerics=options.mix_numerics,
        name_conflicts=find_name_conflicts(planned.units),
        already_written=find_already_written(ledger.attempts()),
    )
    return TranslatePlan(ledger, items, planned, job)


def exclude_outputs(inputs: Sequence[Input], run: Location) -> list[Input]:
    """Return the inputs that are not the run's own files. Raises UsageError when none is left."""
    kept = [source for source in inputs if not location_contains(run, source.uri)]
    if not kept:
        raise UsageError(f"All inputs lie in the run itself, '{run.uri}'; name the photographs.")
    return kept


def check_outputs(ledger: Ledger, items: Sequence[Item], image_format: str) -> None:
    """Refuse inputs that would block the run half-way.

    An input whose name was rejected has no output, so a mended file may take the name.

    Raises:
        MismatchError: The name of an output is taken by another image.
        UsageError: An output would have to be a file and a directory at once.
    """
    receipts = ledger.receipts()
    waiting = {item.name: item for unit in ledger.units() if unit.id not in receipts for item in unit.items}
    made = {
        item.name: item.image_id
        for unit in ledger.units()
        if unit.id in receipts
        for item, output in zip(unit.items, receipts[unit.id].outputs, strict=False)
        if output
    }
    for item in items:
        other = made.get(item.name, item.image_id) != item.image_id
        if other and item.image_id != unreadable_id(item.uri):  # an input that cannot be read now becomes a reject
            raise MismatchError(
                f"'{output_name(item.name, image_format)}' was made from other bytes than '{item.uri}' holds now: the "
                "file was changed, or another one goes by its name; translate it into another run."
            )
        planned = waiting.get(item.name, item)
        if planned.image_id != item.image_id and planned.uri != item.uri:
            raise MismatchError(
                f"'{output_name(item.name, image_format)}' is planned for '{planned.uri}', which is not done yet; "
                f"translate '{item.uri}' into another run."
            )
    _check_folders({output_name(name, image_format) for name in [*made, *(item.name for item in items)]})


def _check_folders(files: set[str]) -> None:
    """Raise UsageError when one file's name is a folder of another's."""
    for file in sorted(files):
        folders = accumulate(file.split("/")[:-1], "{}/{}".format)
        blocking = next((folder for folder in folders if folder in files), None)
        if blocking:
            raise UsageError(f"The outputs '{blocking}' and '{file}' cannot both exist; give them separate runs.")


def find_name_conflicts(units: Sequence[Unit]) -> frozenset[str]:
    """Return the names that stand for different images in different units: their files changed during the run."""
    first: dict[str, str] = {}
    items = [item for unit in units for item in unit.items]
    return frozenset(item.name for item in items if first.setdefault(item.name, item.image_id) != item.image_id)


def find_already_written(attempts: Sequence[Attempt]) -> frozenset[tuple[str, str]]:
    """Return (unit id, name) of outputs in pending units that a committed unit has made.

    That happens when an image could not be read for a while and is the same again.
    """
    made = {
        (item.image_id, item.name)
        for unit, receipt in attempts
        for item, output in zip(unit.items, receipt.outputs if receipt else (), strict=False)
        if output
    }
    pending = [unit for unit, receipt in attempts if receipt is None]
    return frozenset((u.id, i.name) for u in pending for i in u.items if (i.image_id, i.name) in made)
