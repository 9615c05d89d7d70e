"""A run on disk: configuration, outputs with their provenance, summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, BinaryIO, Protocol, cast

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kt_batch.config import MOST_WEIGHT, EncoderConfig, FurtherLibrary, OutputForm, Series
from kt_batch.errors import DamagedError, MismatchError
from kt_batch.store import layout
from kt_batch.store.committed import Committed
from kt_batch.store.derived import write_summary
from kt_batch.store.locations import MOST_IMAGE_BYTES, Location, read_bounded
from kt_batch.store.output_shards import Section, sample_key
from kt_batch.store.plans import Unit
from kt_batch.store.receipts import Receipt, ShardRef, TableRef
from kt_batch.store.schemas import missing_columns
from kt_batch.store.tables import read_table
from kt_batch.store.units import Ledger

MOST_SHARE = 1000.0  # by which pairs that pull in opposite directions may outweigh the edit
RUN_FORMAT, RUN_FORMAT_OF_SERIES = "kt-batch-run/1", "kt-batch-run/2"


class RunHeader(BaseModel):
    """The fields of a run's configuration that every method shares.

    `format` is that of the output images. It is required, which tells a run from a library. `encoder` and
    `index_digest` are None for a method that has none. `output` says whether the output images are files or in shards.
    `series` says which photographs share an edit.
    `full_size` says that a method with an index edits photographs at their full size.
    `further_libraries` names the indexes that are searched beside the first one, whose scores count `library_weight`.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    method: str = "knowledge"
    format: Annotated[str, Field(pattern=r"^[a-z0-9]{1,8}$")]
    encoder: EncoderConfig | None = None
    index_digest: str | None = None
    output: OutputForm = "files"
    series: Series = "none"
    full_size: bool = False
    library_weight: Annotated[float, Field(gt=0, le=MOST_WEIGHT)] = 1.0
    further_libraries: tuple[FurtherLibrary, ...] = ()


class MethodSettings(Protocol):
    """The configuration of any method."""

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        """Return all fields as JSON-able values."""

    def digest(self) -> str:
        """Return the configuration digest, 16 hex digits."""


NO_FILES: Mapping[str, object] = {}


@dataclass(frozen=True)
class Totals:
    """The number of rejects, and means over the best matches of all patches.

    The means are None where a run matches no patches.
    """

    rejects: int
    ncc_mean: float | None
    certified_share: float | None


@dataclass(frozen=True)
class Output:
    """One output image.

    name: its path in the run, also where a shard holds its bytes. uri, image_id, input_name: of its input. part,
    row_group: where its provenance is, or the first of its levels. bytes: how many it has. shard, offset: the shard
    with its bytes, and where they begin; None where it is a file of its own.
    """

    name: str
    uri: str
    image_id: str
    input_name: str
    sha256: str
    part: TableRef
    row_group: int
    bytes: int
    shard: str | None = None
    offset: int = 0


class Run:
    """An opened run. `store/opening.py` opens one."""

    def __init__(self, committed: Committed) -> None:
        """Raise MismatchError when the planned configuration is not that of a run."""
        self.committed = committed
        try:
            self.header = RunHeader.model_validate(committed.config)
        except ValidationError as error:
            raise MismatchError(f"'{committed.location.uri}' is not a run of this version: is it a library?") from error

    @property
    def location(self) -> Location:
        """Return the run's location."""
        return self.committed.location

    @property
    def config(self) -> Mapping[str, Any]:
        """Return the method's configuration as the plan holds it."""
        return self.committed.config

    @cached_property
    def outputs(self) -> dict[str, Output]:
        """Return all committed outputs by name, sorted."""
        outputs: list[Output] = []
        for unit, receipt in self.committed.attempts:
            if receipt is not None:
                self._check_shard(unit, receipt)
                outputs += _outputs(unit, receipt, self.header.format)
        return {output.name: output for output in sorted(outputs, key=lambda output: output.name)}

    @cached_property
    def shards(self) -> dict[str, tuple[ShardRef, list[Output]]]:
        """Return each shard by its path, with its outputs in the order of their bytes; in plan order."""
        inside: dict[str, list[Output]] = {}
        for output in self.outputs.values():
            inside.setdefault(output.shard or "", []).append(output)
        return {
            name: (receipt.shard, sorted(inside[name], key=lambda output: output.offset))
            for unit, receipt in self.committed.attempts
            if receipt and receipt.shard and (name := receipt.shard.name(unit.id)) in inside
        }

    def _check_shard(self, unit: Unit, receipt: Receipt) -> None:
        """Raise DamagedError unless a receipt with outputs says that they are where those of the run are."""
        form = receipt.shard.form if receipt.shard else "files"
        if any(receipt.outputs) and form != self.header.output:
            raise DamagedError(
                f"{self.location.uri}/{layout.receipt_path(unit.id)} has outputs as {form}, but the run has them as "
                f"{self.header.output}"
            )


def is_run(config: Mapping[str, Any]) -> bool:
    """Tell a run from a library by the planned configuration: only a run's has an image format."""
    return "format" in config


def _outputs(unit: Unit, receipt: Receipt, image_format: str) -> list[Output]:
    """Return the outputs of one unit.

    Row groups of its provenance part follow the items that were not rejected.
    """
    shard = receipt.shard
    places = shard.offsets if shard else [0] * len(receipt.outputs)
    each = zip(unit.items, receipt.outputs, places, strict=True)
    done = [(item, output, at or 0) for item, output, at in each if output]
    part = next((table for table in receipt.tables if table.kind == layout.PROVENANCE), None)
    if part is None:
        return []
    groups = max(len(part.levels), 1)  # of each output
    return [
        Output(
            item.output_path(image_format), item.uri, item.image_id, item.name, output[0], part, number * groups,
            output[1], shard.name(unit.id) if shard else None, at,
        )
        for number, (item, output, at) in enumerate(done)
    ]  # fmt: skip


def open_output(run: Run, output: Output) -> BinaryIO:
    """Open the bytes of an output, from its file or from within its shard.

    Raises:
        MissingError: they are gone.
    """
    if output.shard is None:
        return run.location.open(output.name)
    return cast("BinaryIO", Section(run.location.open(output.shard), output.offset, output.bytes))


def read_output(run: Run, output: Output) -> bytes:
    """Read an output as a whole.

    Raises:
        MissingError: it is gone.
        DamagedError: it is larger than any image that is read as a whole.
    """
    if output.shard is None:
        return read_bounded(run.location, output.name, MOST_IMAGE_BYTES)
    if output.bytes > MOST_IMAGE_BYTES:
        raise DamagedError(
            f"'{output.name}' in {run.location.uri}/{output.shard} has {output.bytes} bytes; allowed are "
            f"{MOST_IMAGE_BYTES}"
        )
    return run.location.read_range(output.shard, output.offset, output.bytes)


def provenance_of(run: Run, output: Output, level: str | None = None) -> pa.Table:
    """Read the provenance of one output, or that of one of its levels.

    Raises:
        DamagedError: the part is not readable, or holds numbers that no match has, or other levels than its receipt.
    """
    where, levels = f"{run.location.uri}/{output.part.name}", output.part.levels
    first, count = (0, max(len(levels), 1)) if level is None else (levels.index(level), 1)
    start, expected = output.row_group + first, levels[first : first + count]
    table = read_table(run.location, output.part, groups=range(start, start + count))
    if missing := missing_columns(layout.PROVENANCE, table.column_names):
        raise DamagedError(f"{where} lacks the column {missing[0]!r}")
    there = tuple(table["level"].cast("string").unique().to_pylist()) if "level" in table.column_names else ()
    if there != expected:
        raise DamagedError(f"{where} holds {_levels_shown(there)} where its receipt names {_levels_shown(expected)}")
    check_provenance(table, where)
    return table


def coarse_provenance(run: Run, part: TableRef, columns: Sequence[str]) -> pa.Table:
    """Read columns of the provenance of all outputs in a part; of a method with levels, only the coarse one.

    Raises:
        DamagedError: the part is not readable, or holds numbers that no match has.
    """
    table = read_table(run.location, part, columns, groups=_coarse_groups(part))
    check_provenance(table, f"{run.location.uri}/{part.name}")
    return table


def _coarse_groups(part: TableRef) -> slice | None:
    """Return the row groups of the coarse level of each output in a part."""
    return slice(None, None, len(part.levels)) if part.levels else None


def _levels_shown(levels: Sequence[str]) -> str:
    return f"the levels {', '.join(levels)}" if levels else "no levels"


def check_provenance(table: pa.Table, where: str) -> None:
    """Raise DamagedError unless the weights, shares and scores of provenance are finite.

    No weight is negative. A share may be, where a pair pulls an edit away from its own.
    """
    for name, lowest in (("weight", 0.0), ("share", -MOST_SHARE), ("ncc", -np.inf)):
        if name in table.column_names:
            values = table[name].to_numpy()
            if not (np.isfinite(values).all() and (values >= lowest).all()):
                raise DamagedError(f"{where} holds a {name} that is not finite, or is below {lowest:g}")


def write_run_summary(
    location: Location,
    ledger: Ledger,
    config: MethodSettings,
    library: str | None,
    further: Sequence[str] = (),
    files: Mapping[str, object] = NO_FILES,
) -> Totals:
    """Write `run.json` from plan, receipts and tables.

    library, further: as the command named them; None for a method that uses none. files: where label images and filter
    banks are, by the key that says so.
    """
    content = config.model_dump(mode="json")
    run = Run(Committed(ledger, content))
    totals = _totals(run)
    receipts = run.committed.receipts.values()
    write_summary(
        location,
        layout.RUN_SUMMARY,
        {
            "format": RUN_FORMAT if run.header.series == "none" else RUN_FORMAT_OF_SERIES,
            "config": content,
            "config_digest": config.digest(),
            "library": library,
            **({"libraries": [library, *further]} if further else {}),
            **files,
            "snapshot": ledger.snapshot(),
            "images": sum(r.images for r in receipts),
            "patches": sum(r.patches for r in receipts),
            "rejects": totals.rejects,
            "ncc_mean": totals.ncc_mean,
            "certified_share": totals.certified_share,
            "outputs": {output.name: _described(output) for output in run.outputs.values()},
            **({"shards": _shards(run)} if run.header.output != "files" else {}),
        },
    )
    return totals


def _described(output: Output) -> dict[str, Any]:
    described = {"uri": output.uri, "provenance": output.part.name, "row_group": output.row_group}
    return described if output.shard is None else described | {"shard": output.shard, "key": sample_key(output.name)}


def _shards(run: Run) -> list[dict[str, Any]]:
    return [
        {"name": name, "bytes": shard.bytes, "sha256": shard.sha256, "pictures": len(outputs)}
        for name, (shard, outputs) in run.shards.items()
    ]


def _totals(run: Run) -> Totals:
    """Sum up the matches from the receipts.

    Reading the provenance of many images back from a bucket would take long.
    """
    rejects = run.committed.rejects.count
    receipts = run.committed.receipts
    matched = [receipts[unit] for unit in sorted(receipts) if receipts[unit].patches]
    if not matched:
        return Totals(rejects, None, None)
    count = sum(receipt.patches for receipt in matched)
    sums = [_sums(run.location, receipt) for receipt in matched]
    ncc, certified = (sum(column) for column in zip(*sums, strict=True))
    return Totals(rejects, round(ncc / count, 6), round(certified / count, 6))


def _sums(location: Location, receipt: Receipt) -> tuple[float, int]:
    """Return a unit's sum of NCC and number of certified best matches."""
    if receipt.ncc_sum is not None and receipt.certified is not None:
        return receipt.ncc_sum, receipt.certified
    ncc, certified = 0.0, 0
    for part in (table for table in receipt.tables if table.kind == layout.PROVENANCE):
        table = read_table(location, part, ["rank", "ncc", "certified"], groups=_coarse_groups(part))
        first = table["rank"].to_numpy() == 0
        certified += int(np.count_nonzero(table["certified"].to_numpy()[first]))
        ncc += float(table["ncc"].to_numpy()[first].astype(np.float64).sum())
    return ncc, certified
