"""What all pipelines share: the runner they are handed, progress, and the planning of inputs by content."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Protocol, TypeVar

import pyarrow as pa

from kt_batch.errors import Reason, RejectError, UnreachableError
from kt_batch.events import log_event
from kt_batch.store.images.files import WorkingImage, image_id
from kt_batch.store.inputs import Input, input_id, read_input
from kt_batch.store.receipts import Receipt
from kt_batch.store.schemas import REJECTS
from kt_batch.store.units import Item, Unit

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

U = TypeVar("U")
R = TypeVar("R")
S = TypeVar("S", bound="DataclassInstance")
HASH_THREADS = 8
HASH_TOGETHER = 16  # inputs that a thread takes at a time, at most: a small file costs more to hand over than to hash


# A heartbeat; answers whether this unit has cost a worker, and is to be done with care: nothing beside what was named.
Heartbeat = Callable[[str], bool]


def no_heartbeat(part: str) -> bool:  # noqa: ARG001
    """For callers that nobody watches."""
    return False


class Runner(Protocol):
    """Who runs the units. Results come as they are finished, in any order."""

    def run(
        self,
        factory: Callable[[], Callable[[U, Heartbeat], R]],
        units: Sequence[U],
        quarantine: Callable[[U, str, str], U] | None = None,
    ) -> Iterator[R]:
        """`factory` makes a worker where the work is done; it lives through many units. A worker is called with a unit
        and a heartbeat: `beat(part)` says which part of the unit it begins, and answers whether the unit is to be done
        with care. A part over which process after process is lost is taken out: `condemn(unit, part, why)` is the unit
        to do instead."""


@dataclass(frozen=True)
class Step:
    """How far a stage is, in its own units of work; `rejects` counts inputs; `note` is a sentence to be shown once."""

    stage: str
    done: int
    total: int
    rejects: int = 0
    note: str = ""


Progress = Callable[[Step], None]
Decode = Callable[[bytes, int], WorkingImage]  # the bytes of a file and a long side


def no_progress(step: Step) -> None:
    """For callers that show none."""


def plan_items(inputs: Sequence[Input], progress: Progress) -> list[Item]:
    """Identify every input by its content. One that cannot be read now is planned all the same, under an id made of its
    URI, so that the unit work rejects it with its reason."""
    items: list[Item] = []
    size = max(1, min(HASH_TOGETHER, len(inputs) // (8 * HASH_THREADS)))
    portions = [inputs[start : start + size] for start in range(0, len(inputs), size)]
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        for portion in pool.map(lambda some: [_identify(source) for source in some], portions):
            items += portion
            progress(Step("plan", len(items), len(inputs)))
    return items


def _identify(source: Input) -> Item:
    try:
        identity = input_id(source.uri)
    except RejectError:
        identity = unreadable_id(source.uri)
    return Item(identity, source.uri, source.name)


def unreadable_id(uri: str) -> str:
    """The image id that stands for an input whose bytes could not be had when it was planned."""
    return hashlib.sha256(b"unreadable:" + uri.encode()).hexdigest()[:16]


def read_planned(item: Item) -> bytes:
    """The bytes of an input. Raises RejectError when they cannot be read or are not those that were planned, and
    UnreachableError when their store fails."""
    data = read_input(item.uri)
    if image_id(data) != item.image_id:
        raise RejectError(Reason.CHANGED, f"'{item.uri}' has changed since it was planned; run the command again.")
    return data


def read_image(items: Sequence[Item], size: int, decode: Decode, other_uris: Sequence[str] = ()) -> WorkingImage:
    """The working image of items that are one image, from the first of their URIs that has it, or of `other_uris`.

    Raises the RejectError of the first URI when none has it, and UnreachableError when one of them is in a store that
    fails. What cannot be decoded is not tried again from another URI: its bytes would be the same.
    """
    image = items[0].image_id
    first: RejectError | None = None
    unreachable: UnreachableError | None = None
    for uri in dict.fromkeys([*(item.uri for item in items), *other_uris]):
        try:
            data = read_planned(Item(image, uri, uri))
        except RejectError as error:
            first = first or error
            continue
        except UnreachableError as error:
            unreachable = error
            continue
        try:
            return decode(data, size)
        except RejectError as error:
            if first is None:
                raise
            raise first from error.with_traceback(None)  # which holds the bytes of the file
    raise unreachable or first or RejectError(Reason.UNREADABLE, f"The image {image} has no URI.")


def by_image(unit: Unit) -> list[list[Item]]:
    """The items of a unit, one list per image id, in id order."""
    return [list(items) for _, items in groupby(unit.items, key=lambda item: item.image_id)]


def quarantined(unit: Unit, image: str, why: str) -> Unit:
    """The unit, its image `image` to be rejected unseen."""
    return replace(unit, quarantined={**unit.quarantined, image: why})


def check_quarantined(unit: Unit, image: str) -> None:
    """Raise RejectError for an image that is condemned."""
    if image in unit.quarantined:
        raise RejectError(Reason.FATAL, f"The image was given up: {unit.quarantined[image]}.")


def rejects_table(rows: list[dict[str, str]]) -> pa.Table:
    """The reject table of a unit."""
    return pa.Table.from_pylist(rows, schema=REJECTS)


def reject_row(item: Item, stage: str, error: RejectError) -> dict[str, str]:
    """One row of it; the log is told as well."""
    about = {"image": item.image_id, "uri": item.uri, "stage": stage, "reason": str(error.reason)}
    log_event("image_rejected", error.message, logging.WARNING, **about)
    return {"uri": item.uri, "stage": stage, "reason": str(error.reason), "message": error.message}


def run_units(
    runner: Runner,
    factory: Callable[[], Callable[[Unit, Heartbeat], Receipt]],
    units: Sequence[Unit],
    stage: str,
    progress: Progress,
) -> list[Receipt]:
    """Run image units and show how many images are done."""
    sizes = {unit.id: len(unit.items) for unit in units}
    total = sum(sizes.values())
    done = rejects = 0
    receipts: list[Receipt] = []
    progress(Step(stage, 0, total))
    for receipt in runner.run(factory, units, quarantined):
        receipts.append(receipt)
        tell_committed(receipt)
        done += sizes[receipt.unit]
        rejects += receipt.rejects
        progress(Step(stage, done, total, rejects))
    return receipts


def tell_committed(receipt: Receipt) -> None:
    """Tell of a unit's commit."""
    log_event(
        "unit_committed",
        unit=receipt.unit,
        attempt=receipt.attempt,
        worker=receipt.worker,
        seconds=round(sum(receipt.timings.values()), 3) if receipt.timings else None,
        images=receipt.images,
        patches=receipt.patches,
        rejects=receipt.rejects,
    )


def log_summary(summary: S) -> S:
    """The summary of a pipeline, of which the log is told as well."""
    log_event("summary", of=type(summary).__name__.removesuffix("Summary").lower(), **asdict(summary))
    return summary


def sum_timings(receipts: Sequence[Receipt]) -> dict[str, float]:
    """Seconds per stage over all receipts."""
    total: dict[str, float] = {}
    for receipt in receipts:
        for stage, seconds in receipt.timings.items():
            total[stage] = total.get(stage, 0.0) + seconds
    return {stage: round(seconds, 3) for stage, seconds in total.items()}
