"""Plan the extraction of pairs: match the files before and after by name, and plan the pairs that are not done."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from kt_batch.config import PairsConfig, RunOptions
from kt_batch.errors import UsageError
from kt_batch.pipelines.inputs import check_origins, find_images, plan_items, say_kinds, say_passed_over
from kt_batch.pipelines.planning import PlannedUnits, earlier_numerics, plan_units
from kt_batch.pipelines.progress import Progress, Step
from kt_batch.store.inputs import Input
from kt_batch.store.locations import absolute_place, open_location, sole_kernel
from kt_batch.store.opening import refuse_other_kind
from kt_batch.store.paired import pair_id
from kt_batch.store.passed_over import Kinds, add_kinds
from kt_batch.store.plans import Item
from kt_batch.store.targets import check_place
from kt_batch.store.units import Ledger

SHOWN = 5  # unmatched names in a sentence


@dataclass(frozen=True)
class PairsRequest:
    """The request of a caller.

    before, after: Paths, globs or URIs. library: A path or URI. config: What the library holds. options: How the work
    is run.
    """

    before: Sequence[str]
    after: Sequence[str]
    library: str
    config: PairsConfig
    options: RunOptions


@dataclass(frozen=True)
class PairsJob:
    """Everything that a worker needs, small enough to send; the fields as in ExtractJob."""

    library: str
    config: PairsConfig
    threads: int
    numerics: tuple[tuple[str, str], ...] | None = None
    mix_numerics: bool = False
    kernel: str | None = None


@dataclass(frozen=True)
class PairsPlan:
    """The work. unmatched: Names of files before without one after, and of those after without one before."""

    ledger: Ledger
    items: Sequence[Item]
    planned: PlannedUnits
    job: PairsJob
    unmatched: tuple[str, ...]
    passed_over: tuple[str, ...]
    passed_over_files: Kinds


def plan_pairs(request: PairsRequest, progress: Progress) -> PairsPlan:
    """Plan the pairs that are not planned yet, and those to be tried once more.

    Raises:
        UsageError: There is no pair, or the library would be a file, a run, a knowledge library or a folder of inputs.
        MismatchError: The library has another configuration.
    """
    place, named = absolute_place(request.library), [*request.before, *request.after]
    check_place("--library", request.library, named, ())
    location = open_location(place)
    ledger = Ledger(location)
    refuse_other_kind(ledger, "pairs")
    first, second = (find_images(places, (), progress) for places in (request.before, request.after))
    passed_over = say_passed_over([*first.ours, *second.ours], location, progress)
    kinds = say_kinds(add_kinds([first.passed_over, second.passed_over]), progress)
    matched, unmatched = match_names(first.inputs, second.inputs)
    if not matched:
        raise UsageError(
            f"None of the {len(first.inputs)} images before has the name of one of the {len(second.inputs)} after; "
            "a pair has one name in both places, whatever the suffix."
        )
    if unmatched:
        more = f" and {len(unmatched) - SHOWN} more" if len(unmatched) > SHOWN else ""
        shown = ", ".join(f"'{name}'" for name in unmatched[:SHOWN])
        progress(Step("plan", 0, 0, note=f"Left out, as only one of before and after is there: {shown}{more}."))
    items = pair_items(matched, progress)
    planned = plan_units(ledger, items, request.options, request.config, dry_run=False)
    check_origins(named, location, planned.pending)
    job = PairsJob(
        library=place,
        config=request.config,
        threads=request.options.threads,
        numerics=earlier_numerics(ledger),
        mix_numerics=request.options.mix_numerics,
        kernel=sole_kernel(location),
    )
    return PairsPlan(ledger, items, planned, job, unmatched, passed_over, kinds)


def match_names(before: Sequence[Input], after: Sequence[Input]) -> tuple[list[tuple[Input, Input]], tuple[str, ...]]:
    """Return the pairs of inputs of one name, and the names without a partner.

    Names are compared with their folders. Equal names go first; then names that differ in their suffix or in case, as
    an edit of `a.CR2` may be `a.jpg`, where that leaves one file on either side.
    """
    left, right = {each.name: each for each in before}, {each.name: each for each in after}
    pairs = [(left.pop(name), right.pop(name)) for name in sorted(left.keys() & right.keys())]
    groups: dict[str, tuple[list[Input], list[Input]]] = defaultdict(lambda: ([], []))
    for side, inputs in enumerate((left.values(), right.values())):
        for each in inputs:
            groups[_stem(each.name)][side].append(each)
    alone: list[str] = []
    for ones, others in groups.values():
        if len(ones) == len(others) == 1:
            pairs.append((ones[0], others[0]))
        else:
            alone += [each.name for each in (*ones, *others)]
    return sorted(pairs, key=lambda pair: pair[0].name), tuple(sorted(alone))


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix("")).casefold()


def pair_items(pairs: Sequence[tuple[Input, Input]], progress: Progress) -> list[Item]:
    """Identify every pair by the content of its two files."""
    befores = plan_items([before for before, _ in pairs], progress)
    afters = plan_items([after for _, after in pairs], progress)
    return [
        replace(before, image_id=pair_id(before.image_id, after.image_id), after=after.uri)
        for before, after in zip(befores, afters, strict=True)
    ]
