"""Plan the extraction of pairs: find them, and plan those that are not done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kt_batch.config import PairsConfig, RunOptions
from kt_batch.pipelines.extract.plan import check_space, images_to_do
from kt_batch.pipelines.inputs import check_origins, say_columns, say_kinds, say_passed_over
from kt_batch.pipelines.pairs.sources import FoundPairs, listed_pairs, named_pairs, synthetic_pairs
from kt_batch.pipelines.planning import PlannedUnits, earlier_numerics, plan_units
from kt_batch.pipelines.progress import Progress, Step
from kt_batch.store.locations import absolute_place, open_location, sole_kernel
from kt_batch.store.manifests import Manifest, PairList
from kt_batch.store.opening import refuse_other_kind
from kt_batch.store.passed_over import Kinds
from kt_batch.store.plans import Item
from kt_batch.store.targets import check_place
from kt_batch.store.units import Ledger

BYTES_OF_PAIR = 40_000  # at most: its numbers, two thumbnails of noise, and what Parquet adds
SHOWN = 5  # unmatched names in a sentence


@dataclass(frozen=True)
class PairsRequest:
    """The request of a caller.

    before, after: Paths, globs or URIs; after alone for a library of synthetic pairs, neither beside lists. library: A
    path or URI. config: What the library holds. options: How the work is run. lists: Lists of pairs.
    """

    before: Sequence[str]
    after: Sequence[str]
    library: str
    config: PairsConfig
    options: RunOptions
    lists: Sequence[PairList] = ()

    @property
    def named(self) -> list[str]:
        """Return the places that were named."""
        return [*self.before, *self.after]

    @property
    def manifests(self) -> list[Manifest]:
        """Return the lists, one side after the other."""
        return [manifest for pair_list in self.lists for manifest in pair_list.manifests]


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
    """The work.

    bytes_at_most: By how much the library may grow. unmatched: Names of files before without one after, and of those
    after without one before.
    """

    ledger: Ledger
    items: Sequence[Item]
    planned: PlannedUnits
    job: PairsJob
    bytes_at_most: int
    unmatched: tuple[str, ...]
    passed_over: tuple[str, ...]
    passed_over_files: Kinds


def plan_pairs(request: PairsRequest, progress: Progress, *, dry_run: bool = False) -> PairsPlan:
    """Plan the pairs that are not planned yet, and those to be tried once more.

    Args:
        request: What to extract.
        progress: Called while pairs are identified, and with the disk estimate.
        dry_run: Write nothing, and leave a lack of space to the caller.

    Raises:
        UsageError: There is no pair, or the library would be a file, a run, a knowledge library or a folder of inputs.
        MismatchError: The library has another configuration.
        StorageError: There is too little space, or no such place.
    """
    place, named, manifests = absolute_place(request.library), request.named, request.manifests
    check_place("--library", request.library, named, manifests)
    location = open_location(place)
    ledger = Ledger(location)
    refuse_other_kind(ledger, "pairs")
    found = _find(request, progress)
    passed_over = say_passed_over(found.ours, location, progress)
    kinds = say_kinds(found.passed_over, progress)
    say_columns([pair_list.before for pair_list in request.lists], progress)
    _say_unmatched(found.unmatched, progress)
    size = BYTES_OF_PAIR * images_to_do(ledger, found.items)
    if not dry_run:
        check_space(location, size, progress)
    planned = plan_units(ledger, found.items, request.options, request.config, dry_run=dry_run)
    check_origins(named, location, planned.pending, manifests)
    job = PairsJob(
        library=place,
        config=request.config,
        threads=request.options.threads,
        numerics=earlier_numerics(ledger),
        mix_numerics=request.options.mix_numerics,
        kernel=sole_kernel(location),
    )
    return PairsPlan(ledger, found.items, planned, job, size, found.unmatched, passed_over, kinds)


def _find(request: PairsRequest, progress: Progress) -> FoundPairs:
    if request.lists:
        return listed_pairs(request.lists, progress)
    if request.config.synthetic:
        return synthetic_pairs(request.after, progress)
    return named_pairs(request.before, request.after, progress)


def _say_unmatched(unmatched: Sequence[str], progress: Progress) -> None:
    if unmatched:
        more = f" and {len(unmatched) - SHOWN} more" if len(unmatched) > SHOWN else ""
        shown = ", ".join(f"'{name}'" for name in unmatched[:SHOWN])
        progress(Step("plan", 0, 0, note=f"Left out, as only one of before and after is there: {shown}{more}."))
