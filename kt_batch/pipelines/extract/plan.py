"""Plan an extract: which images are done, which units are to do, and what their workers need to know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kt_batch.config import ExtractConfig, RunOptions
from kt_batch.errors import StorageError
from kt_batch.models.weights import EncoderSource, load_encoder
from kt_batch.pipelines.encoders import check_cut
from kt_batch.pipelines.inputs import (
    check_origins,
    find_images,
    plan_items,
    say_columns,
    say_kinds,
    say_passed_over,
)
from kt_batch.pipelines.planning import PlannedUnits, earlier_numerics, plan_units
from kt_batch.pipelines.progress import Progress, Step, readable_size
from kt_batch.store.locations import Location, absolute_place, open_location, sole_kernel
from kt_batch.store.manifests import Manifest
from kt_batch.store.opening import refuse_other_kind
from kt_batch.store.passed_over import Kinds
from kt_batch.store.plans import Item, Unit, owners
from kt_batch.store.targets import check_place
from kt_batch.store.units import Ledger

BYTES_BESIDE_VECTORS = 100_000  # of an image: its preview, its rows and what Parquet adds


@dataclass(frozen=True)
class ExtractRequest:
    """The request of a caller.

    images: Paths, globs or URIs. library: A path or URI. config: What the library holds. encoder: Where the encoder
    comes from. options: How the work is run. manifests: Lists of images that were read.
    """

    images: Sequence[str]
    library: str
    config: ExtractConfig
    encoder: EncoderSource
    options: RunOptions
    manifests: Sequence[Manifest] = ()


@dataclass(frozen=True)
class ExtractJob:
    """Everything that a worker needs, small enough to send.

    numerics: The numerics class of the units committed so far; None when there are none.
    owned_by_other_unit: (unit id, image id) of images that another unit extracts.
    other_uris: Image id -> every URI of an image that is planned under several.
    kernel: The only kernel whose processes may write there (`store.locations.sole_kernel`); None where all may.
    gpus: GPUs of a worker, which computes on the first of them; 0: on the processor.
    """

    library: str
    config: ExtractConfig
    encoder: EncoderSource
    threads: int
    numerics: tuple[tuple[str, str], ...] | None = None
    mix_numerics: bool = False
    owned_by_other_unit: frozenset[tuple[str, str]] = frozenset()
    other_uris: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    kernel: str | None = None
    gpus: float = 0.0


@dataclass(frozen=True)
class ExtractPlan:
    """The work of an extract.

    items: The inputs that were named. bytes_at_most: By how much the library may grow. passed_over: Libraries and runs
    below the named folders. passed_over_files: Files that are no images, by kind.
    """

    ledger: Ledger
    items: Sequence[Item]
    planned: PlannedUnits
    job: ExtractJob
    bytes_at_most: int
    passed_over: tuple[str, ...]
    passed_over_files: Kinds


def plan_extract(request: ExtractRequest, progress: Progress, *, dry_run: bool = False) -> ExtractPlan:
    """Plan the images that are not planned yet, and those to be tried once more.

    Args:
        request: What to extract.
        progress: Called while inputs are identified, and with the disk estimate.
        dry_run: Write nothing, and leave a lack of space to the caller.

    Raises:
        UsageError: There is nothing to extract, or the library would be a file, a run or the folder of the inputs.
        MismatchError: The library has another configuration.
        StorageError: There is too little space, or no such place.
    """
    place, config = absolute_place(request.library), request.config
    check_place("--library", request.library, request.images, request.manifests)
    for key in config.keys:
        check_cut(load_encoder(request.encoder), request.encoder, key.layer)
    location = open_location(place)
    ledger = Ledger(location)
    refuse_other_kind(ledger, "library")
    say_columns(request.manifests, progress)
    found = find_images(request.images, request.manifests, progress)
    passed_over = say_passed_over(found.ours, location, progress)
    kinds = say_kinds(found.passed_over, progress)
    items = plan_items(found.inputs, progress)
    size = disk_estimate(images_to_do(ledger, items), config, request.encoder)
    if not dry_run:
        check_space(location, size, progress)
    planned = plan_units(ledger, items, request.options, config, dry_run=dry_run)
    check_origins(request.images, location, planned.pending, request.manifests)
    job = ExtractJob(
        library=place,
        config=config,
        encoder=request.encoder,
        threads=request.options.threads,
        numerics=earlier_numerics(ledger),
        mix_numerics=request.options.mix_numerics,
        owned_by_other_unit=find_owned_by_other_units(planned.pending, image_owners(ledger, planned.unwritten)),
        other_uris=find_other_uris(planned.pending, planned.units),
        kernel=sole_kernel(location),
        gpus=request.options.gpus,
    )
    return ExtractPlan(ledger, items, planned, job, size, passed_over, kinds)


def images_to_do(ledger: Ledger, items: Sequence[Item]) -> int:
    """Count the distinct images that are not done: planned before, or among `items`."""
    first, done = image_owners(ledger), ledger.receipts()
    finished = {image for image, unit in first.items() if unit in done}
    return len((first.keys() | {item.image_id for item in items}) - finished)


def image_owners(ledger: Ledger, new: Sequence[Unit] = ()) -> dict[str, str]:
    """Map each image to the unit that extracts it: in plan order the first that did not reject it.

    Args:
        ledger: The plan and the receipts.
        new: Units that may be planned next.
    """
    tables = ledger.reject_tables(ledger.attempts())
    rejected = {(unit, uri) for unit, table in tables.items() for uri in table["uri"].to_pylist()}
    units = [*ledger.units(), *new]
    kept = [Unit(unit.id, tuple(i for i in unit.items if (unit.id, i.uri) not in rejected)) for unit in units]
    return owners(kept)


def find_owned_by_other_units(pending: Sequence[Unit], first: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    """Return (unit id, image id) of the images in pending units that another unit extracts."""
    return frozenset(
        (unit.id, item.image_id)
        for unit in pending
        for item in unit.items
        if first.get(item.image_id, unit.id) != unit.id
    )


def find_other_uris(pending: Sequence[Unit], planned: Sequence[Unit]) -> dict[str, tuple[str, ...]]:
    """Return every URI of each pending image that is planned under several."""
    wanted = {item.image_id for unit in pending for item in unit.items}
    uris: dict[str, dict[str, None]] = {}
    for unit in planned:
        for item in unit.items:
            if item.image_id in wanted:
                uris.setdefault(item.image_id, {})[item.uri] = None
    return {image: tuple(places) for image, places in uris.items() if len(places) > 1}


def check_space(location: Location, estimate: int, progress: Progress) -> None:
    """Report how much the library may grow. Raises StorageError when there is less space."""
    free = location.free_bytes()
    if free is not None and estimate > free:
        raise StorageError(
            f"The library needs up to {readable_size(estimate)} more at '{location.uri}', "
            f"where {readable_size(free)} are free."
        )
    if estimate:
        room = "" if free is None else f"; {readable_size(free)} are free"
        progress(Step("plan", 0, 0, note=f"The library will take up to {readable_size(estimate)} more{room}."))


def disk_estimate(images: int, config: ExtractConfig, encoder: EncoderSource) -> int:
    """Return the bytes that `images` square images of the working size take: an upper bound."""
    if images == 0:
        return 0
    network = load_encoder(encoder).network
    picture = 3 * config.encoder.size**2 if config.keep_images else 0
    vectors = 0
    for key in config.keys:
        side = max(2, -(-key.scale // network.geometry(key.layer).stride)) - 1
        patches = (-(-side // config.stride)) ** 2
        vectors += min(patches, config.max_patches or patches) * (8 * network.channels_at(key.layer) + 40)
    return images * (vectors + picture + BYTES_BESIDE_VECTORS)
