"""Plan a translation: which images are done, which units are to do, and what their workers need to know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from kt_batch.config import MethodConfig, RunOptions
from kt_batch.errors import UsageError
from kt_batch.pipelines.inputs import (
    check_origins,
    find_images,
    plan_items,
    say_columns,
    say_kinds,
    say_passed_over,
)
from kt_batch.pipelines.planning import PlannedUnits, earlier_numerics, plan_units
from kt_batch.pipelines.progress import Progress, Step
from kt_batch.pipelines.translate.draws import of_pending, positions
from kt_batch.pipelines.translate.owners import Owned
from kt_batch.pipelines.translate.sources import Sources
from kt_batch.store.attempts import made_outputs
from kt_batch.store.inputs import Input
from kt_batch.store.locations import Location, absolute_place, location_contains, open_location, sole_kernel
from kt_batch.store.manifests import Manifest
from kt_batch.store.names import MAX_COMPONENT_BYTES
from kt_batch.store.opening import refuse_other_kind
from kt_batch.store.output_names import name_outputs, plain_output
from kt_batch.store.passed_over import Kinds, add_kinds
from kt_batch.store.plans import Item, Unit
from kt_batch.store.targets import check_place
from kt_batch.store.units import Attempt, Ledger

CHANGED_SHOWN = 10


@dataclass(frozen=True)
class TranslateRequest:
    """The request of a caller.

    images: Paths, globs or URIs. run: A path or URI. config: The method and its settings. sources: Where weights,
    library and style images come from. options: How the work is run. manifests: Lists of images that were read.
    shard_size: Photographs of a shard, which is one unit; None takes the unit size.
    index_memory: Bytes of the index that a process may hold; a larger index is shared. None: any index is mapped whole.
    index_replicas: Processes that hold each part of a shared index.
    """

    images: Sequence[str]
    run: str
    config: MethodConfig
    sources: Sources
    options: RunOptions
    manifests: Sequence[Manifest] = ()
    shard_size: int | None = None
    index_memory: int | None = None
    index_replicas: int = 1


@dataclass(frozen=True)
class TranslateJob:
    """Everything that a worker needs, small enough to send.

    numerics: The numerics class of the units committed so far; None when there are none.
    name_conflicts: Names that are planned for more than one image.
    already_written: (unit id, name) of outputs that another unit has made.
    changed: (unit id, name) of inputs whose output another image has.
    kernel: The only kernel whose processes may write there (`store.locations.sole_kernel`); None where all may.
    gpus: GPUs of a worker, which computes on the first of them; 0: on the processor.
    series: The run whose series say which photographs share an edit; None for edits of their own.
    positions: Image id -> position, of pending photographs that get their sources in turn.
    owned: Number of a library -> its index, which processes share; each worker opens those of the others.
    """

    run: str
    config: MethodConfig
    sources: Sources
    threads: int
    numerics: tuple[tuple[str, str], ...] | None = None
    mix_numerics: bool = False
    name_conflicts: frozenset[str] = frozenset()
    already_written: frozenset[tuple[str, str]] = frozenset()
    changed: frozenset[tuple[str, str]] = frozenset()
    kernel: str | None = None
    series: str | None = None
    gpus: float = 0.0
    positions: Mapping[str, int] = field(default_factory=dict)
    owned: Mapping[int, Owned] = field(default_factory=dict)


@dataclass(frozen=True)
class TranslatePlan:
    """The work of a translation.

    items: The inputs that were named. passed_over: Libraries and runs below the named folders. passed_over_files: Files
    that are no images, by kind.
    """

    ledger: Ledger
    items: Sequence[Item]
    planned: PlannedUnits
    job: TranslateJob
    passed_over: tuple[str, ...]
    passed_over_files: Kinds


def plan_translate(request: TranslateRequest, progress: Progress, *, dry_run: bool = False) -> TranslatePlan:
    """Plan the images that are not planned yet, and those to be tried once more.

    Args:
        request: What to translate.
        progress: Called while inputs are identified.
        dry_run: Write nothing.

    Raises:
        UsageError: There is nothing to translate, or the run would be a file, a library or the folder of the inputs.
        MismatchError: The run has another configuration.
    """
    run, options = absolute_place(request.run), unit_options(request)
    read = [*request.images, *(style.uri for style in request.sources.styles)]
    read += [request.sources.masks.place] if request.sources.masks else []
    check_place("--out", request.run, read, request.manifests)
    location = open_location(run)
    limit = min(MAX_COMPONENT_BYTES, location.longest_component())
    ledger = Ledger(location, partial(with_outputs, image_format=request.config.format, limit=limit))
    refuse_other_kind(ledger, "run")
    say_columns(request.manifests, progress)
    found = find_images(request.images, request.manifests, progress)
    passed_over = say_passed_over([*found.ours, *request.sources.passed_over], location, progress)
    kinds = say_kinds(add_kinds([found.passed_over, request.sources.passed_over_files]), progress)
    items = plan_items(exclude_outputs(found.inputs, location), progress)
    planned = plan_units(ledger, items, options, request.config, dry_run=dry_run)
    check_origins(request.images, location, planned.pending, request.manifests)
    in_shards = request.config.output != "files"
    changed = find_changed([*ledger.attempts(), *((unit, None) for unit in planned.unwritten)], in_shards)
    report_changed(changed, planned.pending, progress)
    job = TranslateJob(
        run=run,
        config=request.config,
        sources=request.sources,
        threads=options.threads,
        numerics=earlier_numerics(ledger),
        mix_numerics=options.mix_numerics,
        name_conflicts=find_name_conflicts(planned.units),
        already_written=find_already_written(ledger.attempts()),
        changed=changed,
        kernel=sole_kernel(location),
        gpus=options.gpus,
        positions=_positions(ledger, planned) if request.config.draw == "round-robin" else {},
    )
    return TranslatePlan(ledger, items, planned, job, passed_over, kinds)


def _positions(ledger: Ledger, planned: PlannedUnits) -> dict[str, int]:
    """Return the positions of pending photographs, in a dry run also of those that would be planned."""
    found = positions([*(plan.units for plan in ledger.plans()), planned.unwritten])
    return of_pending(found, planned.pending)


def unit_options(request: TranslateRequest) -> RunOptions:
    """Return how the work is run, with the size of a shard as that of a unit. Raises UsageError without shards."""
    if request.shard_size is None:
        return request.options
    if request.config.output == "files":
        raise UsageError(
            f"--shard-size {request.shard_size} is for --output tar or parquet; with --output files, each output is a "
            "file of its own."
        )
    return request.options.model_copy(update={"unit_size": request.shard_size})


def report_changed(changed: frozenset[tuple[str, str]], pending: Sequence[Unit], progress: Progress) -> None:
    """Say which inputs will be rejected because another image has their output."""
    names = [item.name for unit in pending for item in unit.items if (unit.id, item.name) in changed]
    if names:
        more = f" and {len(names) - CHANGED_SHOWN} more" if len(names) > CHANGED_SHOWN else ""
        shown = ", ".join(f"'{name}'" for name in names[:CHANGED_SHOWN])
        progress(Step("plan", 0, 0, note=f"Changed since their outputs were made, so rejected: {shown}{more}."))


def exclude_outputs(inputs: Sequence[Input], run: Location) -> list[Input]:
    """Return the inputs that are not the run's own files. Raises UsageError when none is left."""
    kept = [source for source in inputs if not location_contains(run, source.uri)]
    if not kept:
        raise UsageError(f"All inputs lie in the run itself, '{run.uri}'; name the photographs.")
    return kept


def with_outputs(units: Sequence[Unit], items: Sequence[Item], image_format: str, limit: int) -> list[Item]:
    """Return the items, each with the path of its output where that is not the plain one.

    An item that is planned in `units` keeps its path. `limit` is the most bytes of a component.
    """
    if not items:
        return []
    planned = {(item.name, item.image_id): item for unit in units for item in unit.items}
    taken = [(item.name, item.output_path(image_format)) for item in planned.values()]
    wanted = [(item.name, item.image_id) for item in items if (item.name, item.image_id) not in planned]
    paths = name_outputs(taken, wanted, image_format, limit)

    def output(item: Item) -> str:
        key = (item.name, item.image_id)
        path = paths[key] if key in paths else planned[key].output_path(image_format)
        return "" if path == plain_output(item.name, image_format) else path

    return [replace(item, output=output(item)) for item in items]


def find_changed(attempts: Sequence[Attempt], in_shards: bool = False) -> frozenset[tuple[str, str]]:
    """Return (unit id, name) of pending inputs whose output another image has, or will have.

    Their files were changed, or other files go by their names. The image that was planned first keeps the name, unless
    it lay in the same file: it cannot be read there any more. In shards it keeps the name even then, while its unit is
    pending: no file's name decides there between two workers.
    """
    made = made_outputs(attempts)
    first: dict[str, Item] = {}
    changed = set()
    for unit in (unit for unit, receipt in attempts if receipt is None):
        for item in unit.items:
            holder = first.setdefault(item.name, item)
            other = holder.image_id != item.image_id and (in_shards or holder.uri != item.uri)
            if made.get(item.name, item.image_id) != item.image_id or (other and item.name not in made):
                changed.add((unit.id, item.name))
    return frozenset(changed)


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
